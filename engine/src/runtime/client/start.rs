//! Starting runs.

use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::error::ClientError;
use super::run::Run;
use super::{Client, misfit};
use crate::model::id::RunId;
use crate::model::limits::{ATOMIC_START_BYTES_MAX, PAYLOAD_BYTES_CEILING, START_MANY_MAX};
use crate::model::payload::{Payload, PayloadError};
use crate::model::request::{PayloadTooLarge, Refusal, StartRun, TooMany};
use crate::model::time::as_ms;
use crate::model::unique::{Unique, UniqueKey};
use crate::wire::message::{AtomicStart, Start, StartAnswer, StartReply};
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
    pub(super) run: Result<StartRun, PayloadError>,
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
            unique: None,
        });
        Self { client, run, output: PhantomData }
    }

    fn with(mut self, change: impl FnOnce(&Client, &mut StartRun)) -> Self {
        if let Ok(run) = &mut self.run {
            change(&self.client, run);
        }
        self
    }

    /// Names the run. Starting the same name again returns the first run, as long as that is kept;
    /// the run's id (`run_…`) is derived from the name. Without a name the id is random.
    ///
    /// Errors (when awaited): [`Refusal::IdTaken`] if a run of that name exists with another
    /// workflow or input.
    pub fn name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.with(|client, run| {
            run.id = RunId::from_name(client.own_namespace(), &name);
            run.name = Some(name);
        })
    }

    /// Sets the queue. Default: the workflow's.
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.with(|_, run| run.queue = queue.into())
    }

    /// Does not run it before this much engine time has passed.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|_, run| run.delay_ms = as_ms(delay))
    }

    /// Gives the run a unique key. If another run of the workflow holds it, that run is returned
    /// instead of starting one ([`Run::started`] tells which); it is never an error. A run holds
    /// its key until the moment given in *its* start.
    ///
    /// **Durability**: the key is taken in the commit that starts the run and released in the one
    /// that ends it (or leases it, if [`Unique::UntilStarted`]); a kill or a power cut changes
    /// nothing. Two starts at once begin one run.
    pub fn unique(self, key: impl Into<String>, until: Unique) -> Self {
        self.with(|_, run| run.unique = Some(UniqueKey::new(key, until)))
    }

    /// Sets the priority, 0 (first) to 9. Default 5.
    pub fn priority(self, priority: u8) -> Self {
        self.with(|_, run| run.priority = priority)
    }

    /// Runs it only on workers that offer all of these tags ([`Worker::tag`](crate::Worker::tag)).
    /// Default: the workflow's.
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
            let answer =
                answers.into_iter().next().ok_or(ClientError::Misfit { kind: "StartReply" })?;
            Ok(client.started(answer)?)
        })
    }
}

impl<Out> std::fmt::Debug for StartBuilder<Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StartBuilder({:?})", self.run)
    }
}

/// Runs about to be started: await it.
#[must_use = "nothing is started until this is awaited"]
pub struct StartMany<Out> {
    client: Client,
    runs: Result<Vec<StartRun>, PayloadError>,
    atomic: bool,
    output: PhantomData<fn() -> Out>,
}

impl<Out> StartMany<Out> {
    /// Starts all of them, in one durable commit, or none. Runs that exist already, the same, are
    /// found and do not count as failures, so that the call may be repeated.
    ///
    /// All of it must fit one write batch: 4,032 writes (a run takes 3, with a unique key 4,
    /// 5 if it is held while the run is in line, 6 if for a time; each queue 1, and one more if it
    /// is new; so 1,343 plain runs) and 900 KiB of inputs, names and tags, with 320 bytes for each
    /// run.
    ///
    /// Errors (when awaited): [`Refusal::NotAllStarted`] names the runs for which nothing was
    /// started; [`Refusal::TooMany`] if the call is too large.
    pub fn atomic(mut self) -> Self {
        self.atomic = true;
        self
    }

    /// Sets the queue of all runs. Default: the workflow's.
    pub fn queue(self, queue: impl Into<String>) -> Self {
        let queue = queue.into();
        self.each(|run| run.queue.clone_from(&queue))
    }

    /// Sets the priority of all runs, 0 (first) to 9. Default 5: a large backfill wants 9, so that
    /// it keeps nobody waiting.
    pub fn priority(self, priority: u8) -> Self {
        self.each(|run| run.priority = priority)
    }

    /// Runs none of the runs before this much engine time has passed.
    pub fn delay(self, delay: Duration) -> Self {
        let delay_ms = as_ms(delay);
        self.each(|run| run.delay_ms = delay_ms)
    }

    /// Runs all runs only on workers that offer all of these tags
    /// ([`Worker::tag`](crate::Worker::tag)). Default: the workflow's.
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Self {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        self.each(|run| run.tags.clone_from(&tags))
    }

    fn each(mut self, change: impl Fn(&mut StartRun)) -> Self {
        if let Ok(runs) = &mut self.runs {
            runs.iter_mut().for_each(change);
        }
        self
    }

    /// Gives each run a unique key, made of its place in the call. See [`StartBuilder::unique`].
    pub fn unique(mut self, until: Unique, key: impl Fn(usize) -> String) -> Self {
        if let Ok(runs) = &mut self.runs {
            for (at, run) in runs.iter_mut().enumerate() {
                run.unique = Some(UniqueKey::new(key(at), until));
            }
        }
        self
    }
}

impl<Out: Send + 'static> IntoFuture for StartMany<Out> {
    type Output = Result<Vec<Result<Run<Out>, Refusal>>, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (client, runs) = (self.client, self.runs?);
            let answers = match self.atomic && !runs.is_empty() {
                true => client.start_atomic(runs).await?,
                false => client.start_each(runs).await?,
            };
            let started = answers.into_iter().map(|answer| client.started(answer));
            Ok(started.collect())
        })
    }
}

impl<Out> std::fmt::Debug for StartMany<Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.runs.as_ref().map_or(0, Vec::len);
        write!(f, "StartMany of {count} runs")
    }
}

/// Runs in frames of a moderate length.
pub(super) fn frames(runs: Vec<StartRun>) -> Vec<Vec<StartRun>> {
    let (mut frames, mut bytes) = (Vec::new(), usize::MAX);
    for run in runs {
        let size = RUN_BYTES + run.input.len();
        let full = |frame: &Vec<StartRun>| frame.len() == START_MANY_MAX;
        if (bytes > 0 && bytes.saturating_add(size) > FRAME_BYTES) || frames.last().is_none_or(full)
        {
            frames.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(frame) = frames.last_mut() {
            frame.push(run);
        }
    }
    frames
}

impl Client {
    /// Starts a run of `workflow`.
    ///
    /// **Durability**: the run survives a kill and a power cut once this has answered. If the
    /// connection is lost meanwhile, the request is sent again; it takes effect once.
    pub fn start<In: Serialize, Out>(
        &self,
        workflow: Workflow<In, Out>,
        input: &In,
    ) -> StartBuilder<Out> {
        let (name, version, queue) =
            (workflow.name(), workflow.code_version(), workflow.queue_name());
        StartBuilder::new(self.clone(), name, version, queue, Payload::of(input))
            .tags(workflow.tag_names().iter().copied())
    }

    /// Starts a run of a workflow that is only known by its name, with an encoded input
    /// ([`Payload::from_json`], say).
    pub fn start_raw(&self, workflow: &str, input: Payload) -> StartBuilder<serde_json::Value> {
        StartBuilder::new(self.clone(), workflow, 1, "default", Ok(input))
    }

    /// Starts many runs of one workflow, each with a name or without one, in few frames. The
    /// answers are in the order of the inputs. See [`StartMany::atomic`].
    ///
    /// Errors: a refusal for each run that is refused; the others are started. A [`ClientError`]
    /// leaves some started and some not: with names, the call may be repeated.
    pub fn start_many<In: Serialize, Out>(
        &self,
        workflow: Workflow<In, Out>,
        runs: Vec<(Option<String>, In)>,
    ) -> StartMany<Out> {
        let runs = runs.into_iter().map(|(name, input)| {
            let builder: StartBuilder<Out> = self.start(workflow, &input);
            match name {
                Some(name) => builder.name(name).run,
                None => builder.run,
            }
        });
        StartMany { client: self.clone(), runs: runs.collect(), atomic: false, output: PhantomData }
    }

    async fn start_each(&self, runs: Vec<StartRun>) -> Result<Vec<StartAnswer>, ClientError> {
        let mut answers = Vec::with_capacity(runs.len());
        for frame in frames(runs) {
            answers.extend(self.send_start(frame).await?);
        }
        Ok(answers)
    }

    async fn start_atomic(&self, runs: Vec<StartRun>) -> Result<Vec<StartAnswer>, ClientError> {
        let (count, bytes) = (runs.len(), runs.iter().map(|run| run.input.len()).sum());
        // The engine says so too; but a frame must not be longer than it reads.
        if bytes > ATOMIC_START_BYTES_MAX || count > START_MANY_MAX {
            let (what, count, count_max) = match count > START_MANY_MAX {
                true => ("runs", count, START_MANY_MAX),
                false => ("bytes of input of an atomic start", bytes, ATOMIC_START_BYTES_MAX),
            };
            let refusal =
                TooMany { what: what.to_owned(), count: count as u64, count_max: count_max as u64 };
            return Err(ClientError::Refused(refusal.into()));
        }
        answers(count, self.ask(AtomicStart { runs }).await?)
    }

    async fn send_start(&self, runs: Vec<StartRun>) -> Result<Vec<StartAnswer>, ClientError> {
        let count = runs.len();
        if let Some(run) = runs.iter().find(|run| run.input.len() > PAYLOAD_BYTES_CEILING) {
            let (bytes, bytes_max) = (run.input.len() as u64, PAYLOAD_BYTES_CEILING as u64);
            return Err(ClientError::Refused(PayloadTooLarge { bytes, bytes_max }.into()));
        }
        answers(count, self.ask(Start { runs }).await?)
    }

    pub(super) fn started<Out>(&self, answer: StartAnswer) -> Result<Run<Out>, Refusal> {
        match answer.refused {
            Some(refusal) => Err(refusal),
            None => Ok(Run::new(self.clone(), answer.id, answer.started)),
        }
    }

    fn random_id(&self) -> RunId {
        RunId(self.random())
    }
}

/// The answers of a reply, one for each run.
fn answers(count: usize, reply: StartReply) -> Result<Vec<StartAnswer>, ClientError> {
    if reply.runs.len() == count { Ok(reply.runs) } else { Err(misfit(&reply.into())) }
}
