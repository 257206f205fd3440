//! Batches: many runs, their progress, and one run that follows.

use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use super::error::ClientError;
use super::run::Run;
use super::start::frames;
use super::{Client, misfit};
use crate::model::batch::{BatchEnded, BatchSummary};
use crate::model::id::RunId;
use crate::model::limits::PAGE_ROWS_MAX;
use crate::model::payload::{Payload, PayloadError};
use crate::model::request::{ListRuns, Refusal, StartRun};
use crate::model::time::as_ms;
use crate::wire::message::{AskBatch, BatchReply, StartBatch};
use crate::workflow::Workflow;

/// Runs of a batch that are asked to stop at a time.
const AT_ONCE: usize = 64;

/// A batch about to be started, or to get more runs.
#[must_use = "nothing is started until `start` or `add` is awaited"]
pub struct BatchBuilder<Out = serde_json::Value> {
    client: Client,
    name: String,
    runs: Result<Vec<StartRun>, PayloadError>,
    follow_up: Option<Result<StartRun, PayloadError>>,
    output: PhantomData<fn() -> Out>,
}

/// What came of a call about a batch.
#[derive(Debug)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct BatchStarted<Out> {
    /// The batch as it was when the last part of the call was answered.
    pub batch: BatchSummary,
    /// The runs of the call, in its order, or why one was refused.
    pub runs: Vec<Result<Run<Out>, Refusal>>,
}

/// What came of cancelling a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct BatchCancelled {
    /// The batch as it was when all of them had been asked. Most have not stopped by then.
    pub batch: BatchSummary,
    /// Runs that were asked to stop, now or before.
    pub asked: u64,
}

impl Client {
    /// A batch of this name: many runs, their progress, and one run that follows when all have
    /// ended.
    ///
    /// ```no_run
    /// use stepwell::{BatchEnded, Client, Workflow};
    ///
    /// const RESIZE: Workflow<u32, ()> = Workflow::new("resize");
    /// const TELL: Workflow<BatchEnded<String>, ()> = Workflow::new("tell");
    ///
    /// # async fn run(client: Client) -> Result<(), stepwell::ClientError> {
    /// let pictures = (0..100_000).map(|picture| (Some(format!("resize-{picture}")), picture));
    /// let started = client
    ///     .batch("resize-all")
    ///     .starts(RESIZE, pictures.collect())
    ///     .then(TELL, &"ann@example.org".to_owned())
    ///     .start()
    ///     .await?;
    /// println!("{} runs", started.batch.counts.total);
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(&self, name: impl Into<String>) -> BatchBuilder {
        BatchBuilder {
            client: self.clone(),
            name: name.into(),
            runs: Ok(Vec::new()),
            follow_up: None,
            output: PhantomData,
        }
    }

    /// How far a batch is: exact as of a commit.
    ///
    /// Errors: [`Refusal::NoSuchBatch`] if there is none of this name, or it ended longer ago than
    /// the retention.
    pub async fn batch_status(&self, name: &str) -> Result<BatchSummary, ClientError> {
        Ok(self.ask(AskBatch { name: name.to_owned() }).await?.batch)
    }

    /// Asks all runs of a batch that have not ended to stop, each by a request of its own in its
    /// journal. Answers once these are durable, not once the runs have stopped; what follows the
    /// batch begins when all have ended, as ever, and is told how many were cancelled.
    ///
    /// A run that ends meanwhile is left as it is. One that is added or redriven meanwhile or later
    /// is not asked: a batch that is open for more can be sealed first. The call may be repeated,
    /// and asks no run twice. It looks at all runs that were started between the first and the last
    /// run of the batch.
    ///
    /// Errors: [`Refusal::NoSuchBatch`] if there is none of this name, or it ended longer ago than
    /// the retention.
    ///
    /// **Cancel safety**: may be dropped; who was asked stays asked.
    pub async fn cancel_batch(
        &self,
        name: &str,
        reason: &str,
    ) -> Result<BatchCancelled, ClientError> {
        let batch = self.batch_status(name).await?;
        let mut asked = 0;
        let mut list = batch.ended_at.is_none().then(|| ListRuns {
            batch: Some(batch.no),
            from: Some(batch.span.first.0),
            before: Some(batch.span.last.0).filter(|no| *no > 0).map(|no| no + 1),
            limit: PAGE_ROWS_MAX,
            ..ListRuns::default()
        });
        while let Some(page) = list {
            let (mut runs, next) = self.list(page.clone()).await?;
            // An engine that does not know of batches in listings lists all runs.
            runs.retain(|run| run.batch == Some(batch.no) && !run.state.is_final());
            for runs in runs.chunks(AT_ONCE) {
                let answers = runs.iter().map(|run| self.cancel(run.id, reason));
                for answer in join_all(answers).await {
                    match answer {
                        Err(ClientError::Refused(Refusal::HasEnded(_) | Refusal::NoSuchRun(_))) => {
                        }
                        answer => asked += answer.map(|()| 1)?,
                    }
                }
            }
            let goes_on = |before| ListRuns { before: Some(before), ..page };
            list = next.map(goes_on);
        }
        let batch = self.batch_status(name).await?;
        Ok(BatchCancelled { batch, asked })
    }
}

impl<Out> BatchBuilder<Out> {
    /// Adds runs of a workflow, each with a name or without one. May be called once for each
    /// workflow; the answers are in the order of the calls.
    pub fn starts<In: Serialize, More>(
        self,
        workflow: Workflow<In, More>,
        runs: Vec<(Option<String>, In)>,
    ) -> BatchBuilder<More> {
        let client = self.client.clone();
        let more = runs.into_iter().map(|(name, input)| {
            let start = client.start(workflow, &input);
            match name {
                Some(name) => start.name(name).run,
                None => start.run,
            }
        });
        self.with(more.collect())
    }

    /// Adds runs of a workflow that is only known by its name.
    pub fn starts_raw(
        self,
        workflow: &str,
        queue: &str,
        runs: Vec<(Option<String>, Payload)>,
    ) -> BatchBuilder {
        let client = self.client.clone();
        let more = runs.into_iter().map(|(name, input)| {
            let start = client.start_raw(workflow, input).queue(queue);
            match name {
                Some(name) => start.name(name).run,
                None => start.run,
            }
        });
        self.with(more.collect())
    }

    /// Sets the queue of all runs added so far. Default: the workflow's.
    pub fn queue(self, queue: impl Into<String>) -> Self {
        let queue = queue.into();
        self.each(|run| run.queue.clone_from(&queue))
    }

    /// Sets the priority of all runs added so far, 0 (first) to 9. Default 5: a large backfill
    /// wants 9, so that it keeps nobody waiting.
    pub fn priority(self, priority: u8) -> Self {
        self.each(|run| run.priority = priority)
    }

    /// Runs none of the runs added so far before this much engine time has passed.
    pub fn delay(self, delay: Duration) -> Self {
        let delay_ms = as_ms(delay);
        self.each(|run| run.delay_ms = delay_ms)
    }

    /// Runs all runs added so far only on workers that offer all of these tags
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

    fn with<More>(self, more: Result<Vec<StartRun>, PayloadError>) -> BatchBuilder<More> {
        let runs = self.runs.and_then(|runs| {
            let mut runs = runs;
            runs.extend(more?);
            Ok(runs)
        });
        BatchBuilder {
            client: self.client,
            name: self.name,
            runs,
            follow_up: self.follow_up,
            output: PhantomData,
        }
    }

    /// Names the run that follows when all runs of the batch have ended, however they ended. It
    /// gets the counts and `input`, which may have 2,048 bytes, and is started once, in the commit
    /// that ends the last run.
    pub fn then<In: Serialize, Last>(
        mut self,
        workflow: Workflow<BatchEnded<In>, Last>,
        input: &In,
    ) -> Self {
        let start = Payload::of(input).and_then(|input| {
            let raw = self.client.start_raw(workflow.name(), input);
            raw.queue(workflow.queue_name()).tags(workflow.tag_names().iter().copied()).run
        });
        self.follow_up = Some(start.map(|run| StartRun {
            id: RunId::default(),
            version: workflow.code_version(),
            ..run
        }));
        self
    }

    /// Names the run that follows by its workflow's name.
    pub fn then_raw(mut self, workflow: &str, queue: &str, input: Payload) -> Self {
        let start = self.client.start_raw(workflow, input).queue(queue).run;
        self.follow_up = Some(start.map(|run| StartRun { id: RunId::default(), ..run }));
        self
    }

    /// Runs what follows only on workers that offer all of these tags. Default: its workflow's.
    /// Call it behind [`then`](Self::then).
    pub fn then_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        if let Some(Ok(run)) = &mut self.follow_up {
            run.tags = tags.into_iter().map(Into::into).collect();
        }
        self
    }

    /// Starts the runs and seals the batch: these are all.
    ///
    /// It takes several frames if there are many runs; the batch is sealed with the last one. Only
    /// if a run is refused is it not sealed. With names, the call may be repeated: what it has
    /// started is found again.
    ///
    /// Errors: [`Refusal::OtherFollowUp`]; [`Refusal::BatchSealed`] for each run that is new to a
    /// sealed batch.
    pub async fn start(self) -> Result<BatchStarted<Out>, ClientError> {
        self.send(true).await
    }

    /// Starts the runs and leaves the batch open for more.
    pub async fn add(self) -> Result<BatchStarted<Out>, ClientError> {
        self.send(false).await
    }

    async fn send(self, seal: bool) -> Result<BatchStarted<Out>, ClientError> {
        let Self { client, name, runs, .. } = self;
        let follow_up = self.follow_up.transpose()?;
        let mut frames = frames(runs?);
        let last = frames.pop().unwrap_or_default();
        let mut started = Vec::new();
        let mut all_well = true;
        for frame in frames {
            let reply = client.send_batch(&name, frame, &follow_up, false).await?;
            started.extend(client.answers(reply.runs, &mut all_well));
        }
        let seal = seal && all_well;
        let reply = client.send_batch(&name, last, &follow_up, seal).await?;
        started.extend(client.answers(reply.runs, &mut all_well));
        Ok(BatchStarted { batch: reply.batch, runs: started })
    }
}

impl Client {
    async fn send_batch(
        &self,
        name: &str,
        runs: Vec<StartRun>,
        follow_up: &Option<StartRun>,
        seal: bool,
    ) -> Result<BatchReply, ClientError> {
        let count = runs.len();
        let (name, follow_up) = (name.to_owned(), follow_up.clone().map(Box::new));
        let reply = self.ask(StartBatch { name, runs, follow_up, seal }).await?;
        if reply.runs.len() == count { Ok(reply) } else { Err(misfit(&reply.into())) }
    }

    fn answers<Out>(
        &self,
        answers: Vec<crate::wire::message::StartAnswer>,
        all_well: &mut bool,
    ) -> Vec<Result<Run<Out>, Refusal>> {
        *all_well &= answers.iter().all(|answer| answer.refused.is_none());
        answers.into_iter().map(|answer| self.started(answer)).collect()
    }
}

impl<Out> std::fmt::Debug for BatchBuilder<Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.runs.as_ref().map_or(0, Vec::len);
        write!(f, "BatchBuilder(`{}`, {count} runs)", self.name)
    }
}
