//! Starting runs.

use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::error::ClientError;
use super::run::Run;
use super::{Client, misfit};
use crate::model::command::{PayloadTooLarge, Refusal, StartRun};
use crate::model::id::{CommandId, RunId};
use crate::model::limits::{PAYLOAD_BYTES_CEILING, START_MANY_MAX};
use crate::model::payload::{Payload, PayloadError};
use crate::wire::message::{Message, Start, StartAnswer};
use crate::workflow::Workflow;

/// One frame of a bulk start carries about this many bytes at most.
const FRAME_BYTES: usize = 2 << 20;
/// What a run adds to a frame besides its input, roughly.
const RUN_BYTES: usize = 128;

/// The priority of a run that was given none.
const PRIORITY_DEFAULT: u8 = 5;

/// A run about to be started: await it.
#[must_use = "nothing is started until this is awaited"]
pub struct StartBuilder<Out> {
    client: Client,
    run: Result<StartRun, PayloadError>,
    output: PhantomData<fn() -> Out>,
}

impl<Out> StartBuilder<Out> {
    fn new(
        client: Client,
        workflow: &str,
        version: u32,
        queue: &str,
        input: Result<Payload, PayloadError>,
    ) -> Self {
        let run = input.map(|input| StartRun {
            id: client.random_id(),
            name: None,
            workflow: workflow.to_owned(),
            version,
            queue: queue.to_owned(),
            priority: PRIORITY_DEFAULT,
            delay_ms: 0,
            input,
            tags: Vec::new(),
        });
        Self {
            client,
            run,
            output: PhantomData,
        }
    }

    fn with(mut self, change: impl FnOnce(&Client, &mut StartRun)) -> Self {
        if let Ok(run) = &mut self.run {
            change(&self.client, run);
        }
        self
    }

    /// Names the run. Starting the same name again finds the first run, as long as that is kept; the run's id is made
    /// of the name. Without a name the id is random.
    ///
    /// Errors (when awaited): [`Refusal::IdTaken`] if a run of that name exists with another workflow or input.
    pub fn id(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.with(|client, run| {
            run.id = RunId::of_name(client.caller.namespace, &name);
            run.name = Some(name);
        })
    }

    /// Sets the queue. Default: the workflow's.
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.with(|_, run| run.queue = queue.into())
    }

    /// Does not run it before this much engine time has passed.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|_, run| run.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    /// Sets the priority, 0 (first) to 9. Default 5.
    pub fn priority(self, priority: u8) -> Self {
        self.with(|_, run| run.priority = priority)
    }

    /// Runs it only on workers that offer all of these tags ([`Worker::tag`](crate::Worker::tag)). Default: the workflow's.
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Self {
        let tags = tags.into_iter().map(Into::into).collect();
        self.with(|_, run| run.tags = tags)
    }
}

impl<Out: Send + 'static> IntoFuture for StartBuilder<Out> {
    type Output = Result<Run<Out>, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { client, run, .. } = self;
            let answers = client.send_start(vec![run?]).await?;
            let answer = answers
                .into_iter()
                .next()
                .ok_or(ClientError::Misfit { kind: "StartReply" })?;
            Ok(client.started(answer)?)
        })
    }
}

impl<Out> std::fmt::Debug for StartBuilder<Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StartBuilder({:?})", self.run)
    }
}

impl Client {
    /// Starts a run of `workflow`.
    ///
    /// **Durability**: the run survives a kill and a power cut once this has answered. If the connection is lost
    /// meanwhile, the request is sent again; it takes effect once.
    pub fn start<In: Serialize, Out>(
        &self,
        workflow: Workflow<In, Out>,
        input: &In,
    ) -> StartBuilder<Out> {
        let (name, version, queue) = (
            workflow.name(),
            workflow.code_version(),
            workflow.queue_name(),
        );
        StartBuilder::new(self.clone(), name, version, queue, Payload::of(input))
            .tags(workflow.tag_names().iter().copied())
    }

    /// Starts a run of a workflow that is only known by its name, with an encoded input
    /// ([`Payload::of_json`], say).
    pub fn start_raw(&self, workflow: &str, input: Payload) -> StartBuilder<serde_json::Value> {
        StartBuilder::new(self.clone(), workflow, 1, "default", Ok(input))
    }

    /// Starts many runs of one workflow, each with a name or without one, in few frames. The answers are in the order of
    /// the inputs.
    ///
    /// Errors: a refusal for each run that is refused; the others are started. A [`ClientError`] leaves some started and
    /// some not: with names, the call may be repeated.
    pub async fn start_many<In: Serialize, Out>(
        &self,
        workflow: Workflow<In, Out>,
        runs: Vec<(Option<String>, In)>,
    ) -> Result<Vec<Result<Run<Out>, Refusal>>, ClientError> {
        let mut answers = Vec::with_capacity(runs.len());
        let (mut frame, mut bytes) = (Vec::new(), 0);
        for (name, input) in runs {
            let builder: StartBuilder<Out> = self.start(workflow, &input);
            let run = match name {
                Some(name) => builder.id(name).run?,
                None => builder.run?,
            };
            let size = RUN_BYTES + run.input.len();
            if !frame.is_empty() && (frame.len() == START_MANY_MAX || bytes + size > FRAME_BYTES) {
                answers.extend(self.send_start(std::mem::take(&mut frame)).await?);
                bytes = 0;
            }
            bytes += size;
            frame.push(run);
        }
        if !frame.is_empty() {
            answers.extend(self.send_start(frame).await?);
        }
        Ok(answers
            .into_iter()
            .map(|answer| self.started(answer))
            .collect())
    }

    async fn send_start(&self, runs: Vec<StartRun>) -> Result<Vec<StartAnswer>, ClientError> {
        let count = runs.len();
        if let Some(run) = runs
            .iter()
            .find(|run| run.input.len() > PAYLOAD_BYTES_CEILING)
        {
            let (bytes, bytes_max) = (run.input.len() as u64, PAYLOAD_BYTES_CEILING as u64);
            return Err(ClientError::Refused(
                PayloadTooLarge { bytes, bytes_max }.into(),
            ));
        }
        let caller = self.calls();
        match self
            .call(|request| {
                Start {
                    request,
                    caller,
                    runs,
                }
                .into()
            })
            .await?
        {
            Message::StartReply(reply) if reply.runs.len() == count => Ok(reply.runs),
            other => Err(misfit(&other)),
        }
    }

    fn started<Out>(&self, answer: StartAnswer) -> Result<Run<Out>, Refusal> {
        match answer.refused {
            Some(refusal) => Err(refusal),
            None => Ok(Run::new(self.clone(), answer.id, answer.started)),
        }
    }

    fn random_id(&self) -> RunId {
        RunId(self.random())
    }

    /// The caller of a new command.
    pub(super) fn calls(&self) -> crate::model::command::Caller {
        crate::model::command::Caller {
            command: CommandId(self.random()),
            ..self.caller.clone()
        }
    }
}
