//! Schedules: setting them, asking about them, filling the past.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::Client;
use super::error::ClientError;
use crate::model::id::RunId;
use crate::model::payload::{Payload, PayloadError};
use crate::model::schedule::{
    BACKFILL_PAGE_MAX, CATCH_UP_DEFAULT, CronTimes, EveryTimes, Occurrence, Overlap,
    SCHEDULE_ROWS_MAX, ScheduleInfo, ScheduleSpec, When,
};
use crate::model::time::{Time, as_ms};
use crate::wire::message::{
    AskOccurrences, AskSchedules, Backfill, PauseSchedule, RemoveSchedule, ResumeSchedule,
    SetSchedule,
};
use crate::workflow::Workflow;

/// The priority of runs that were given none.
const PRIORITY_DEFAULT: u8 = 5;

/// A schedule about to be set: say when with [`cron`](Self::cron) or [`every`](Self::every), then
/// [`set`](Self::set) it.
#[must_use = "nothing is set until `set` is awaited"]
#[derive(Debug)]
pub struct ScheduleBuilder {
    client: Client,
    spec: Result<ScheduleSpec, PayloadError>,
}

impl ScheduleBuilder {
    fn new(
        client: Client,
        name: &str,
        (workflow, version, queue, tags): (&str, u32, &str, &[&str]),
        input: Result<Payload, PayloadError>,
    ) -> Self {
        let spec = input.map(|input| ScheduleSpec {
            name: name.to_owned(),
            workflow: workflow.to_owned(),
            version,
            queue: queue.to_owned(),
            priority: PRIORITY_DEFAULT,
            input,
            when: CronTimes { expression: String::new(), zone: "UTC".to_owned() }.into(),
            jitter_ms: 0,
            overlap: Overlap::default(),
            catch_up_ms: as_ms(CATCH_UP_DEFAULT),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        });
        Self { client, spec }
    }

    fn with(mut self, change: impl FnOnce(&mut ScheduleSpec)) -> Self {
        if let Ok(spec) = &mut self.spec {
            change(spec);
        }
        self
    }

    /// At the wall times a cron expression names: five fields (minute, hour, day of month, month,
    /// day of week), or six with the second in front. If both a day of the month and a day of the
    /// week are named, either will do.
    pub fn cron(self, expression: impl Into<String>) -> Self {
        self.with(|spec| {
            let zone = match &spec.when {
                When::CronTimes(cron) => cron.zone.clone(),
                When::EveryTimes(_) => "UTC".to_owned(),
            };
            let expression = expression.into();
            spec.when = CronTimes { expression, zone }.into();
        })
    }

    /// In this IANA time zone. Default UTC. A wall time that is skipped when clocks go forward is
    /// the first instant after the gap; one that is repeated when they go back is the first of the
    /// two.
    pub fn zone(self, zone: impl Into<String>) -> Self {
        self.with(|spec| {
            if let When::CronTimes(cron) = &mut spec.when {
                cron.zone = zone.into();
            }
        })
    }

    /// Every so often, from 1970-01-01T00:00:00Z on: 15 minutes are the quarters of the hour. At
    /// least a second.
    pub fn every(self, every: Duration) -> Self {
        self.with(|spec| {
            spec.when = EveryTimes { every_ms: as_ms(every), anchor: Time(0) }.into();
        })
    }

    /// Intervals are counted from this instant.
    pub fn anchor(self, anchor: Time) -> Self {
        self.with(|spec| {
            if let When::EveryTimes(every) = &mut spec.when {
                every.anchor = anchor;
            }
        })
    }

    /// Sets the queue. Default: the workflow's.
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.with(|spec| spec.queue = queue.into())
    }

    /// Sets the priority, 0 (first) to 9. Default 5.
    pub fn priority(self, priority: u8) -> Self {
        self.with(|spec| spec.priority = priority)
    }

    /// Runs it only on workers that offer all of these tags ([`Worker::tag`](crate::Worker::tag)).
    /// Default: the workflow's.
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Self {
        let tags = tags.into_iter().map(Into::into).collect();
        self.with(|spec| spec.tags = tags)
    }

    /// Puts each occurrence off by up to this much, never beyond the next. How much is made of the
    /// schedule's name and the nominal time, which stays as it is.
    pub fn jitter(self, jitter: Duration) -> Self {
        self.with(|spec| spec.jitter_ms = as_ms(jitter))
    }

    /// What happens to an occurrence while the last run has not ended. Default [`Overlap::Skip`].
    pub fn overlap(self, overlap: Overlap) -> Self {
        self.with(|spec| spec.overlap = overlap)
    }

    /// Of the occurrences missed within this time only the newest is started. Default 1 h, at least
    /// 10 s.
    pub fn catch_up(self, window: Duration) -> Self {
        self.with(|spec| spec.catch_up_ms = as_ms(window))
    }

    /// Sets it. Setting the same again changes nothing. Another content goes on where it was if its
    /// times are the same, so that a deploy loses no occurrence; other times begin with their first
    /// from now.
    ///
    /// **Durability**: the schedule survives a kill and a power cut once this has answered.
    ///
    /// Errors: [`Refusal::BadCron`](crate::Refusal::BadCron),
    /// [`Refusal::UnknownZone`](crate::Refusal::UnknownZone),
    /// [`Refusal::NeverFires`](crate::Refusal::NeverFires),
    /// [`Refusal::BadSpan`](crate::Refusal::BadSpan),
    /// [`Refusal::TooManySchedules`](crate::Refusal::TooManySchedules),
    /// [`Refusal::ScheduleInputTooLarge`](crate::Refusal::ScheduleInputTooLarge) and those of a
    /// start.
    pub fn set(self) -> BoxFuture<'static, Result<ScheduleSet, ClientError>> {
        Box::pin(async move {
            let spec = Box::new(self.spec?);
            let reply = self.client.ask(SetSchedule { spec }).await?;
            Ok(ScheduleSet { schedule: *reply.schedule, changed: reply.changed })
        })
    }
}

/// A schedule that was set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct ScheduleSet {
    /// The schedule.
    pub schedule: ScheduleInfo,
    /// Whether this call changed anything.
    pub changed: bool,
}

/// A page of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Filled {
    /// Runs that were started.
    pub started: u64,
    /// Runs that were there already.
    pub existed: u64,
    /// Where the next page begins, if there is more.
    pub next: Option<Time>,
}

/// All that can be asked of schedules. See [`Client::schedules`].
#[derive(Debug, Clone)]
pub struct Schedules(Client);

impl Client {
    /// A schedule of this name that starts runs of `workflow` with this input.
    ///
    /// ```no_run
    /// # use stepwell::{Client, Workflow};
    /// # const REPORT: Workflow<String, String> = Workflow::new("report");
    /// # async fn set(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.schedule("nightly", REPORT, &"all".to_owned()).cron("0 6 * * *").zone("Europe/Berlin").set().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn schedule<In: Serialize, Out>(
        &self,
        name: &str,
        workflow: Workflow<In, Out>,
        input: &In,
    ) -> ScheduleBuilder {
        let of =
            (workflow.name(), workflow.code_version(), workflow.queue_name(), workflow.tag_names());
        ScheduleBuilder::new(self.clone(), name, of, Payload::of(input))
    }

    /// A schedule of a workflow that is only known by its name, with an encoded input.
    pub fn schedule_raw(&self, name: &str, workflow: &str, input: Payload) -> ScheduleBuilder {
        ScheduleBuilder::new(self.clone(), name, (workflow, 1, "default", &[]), Ok(input))
    }

    /// Asks about schedules, pauses and removes them.
    pub fn schedules(&self) -> Schedules {
        Schedules(self.clone())
    }
}

impl Schedules {
    /// All schedules, by name.
    pub async fn list(&self) -> Result<Vec<ScheduleInfo>, ClientError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let reply = self.0.ask(AskSchedules { after, limit: SCHEDULE_ROWS_MAX }).await?;
            all.extend(reply.schedules);
            after = reply.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// A schedule and its next occurrences, at most 1,000.
    pub async fn next(
        &self,
        name: &str,
        count: u32,
    ) -> Result<(ScheduleInfo, Vec<Occurrence>), ClientError> {
        let reply = self.0.ask(AskOccurrences { name: name.to_owned(), count }).await?;
        Ok((*reply.schedule, reply.next))
    }

    /// A schedule.
    ///
    /// Errors: [`Refusal::NoSuchSchedule`](crate::Refusal::NoSuchSchedule), as for all calls that
    /// name one.
    pub async fn show(&self, name: &str) -> Result<ScheduleInfo, ClientError> {
        Ok(self.next(name, 0).await?.0)
    }

    /// Starts no more occurrences until it is resumed. Tells whether that changed anything.
    pub async fn pause(&self, name: &str) -> Result<bool, ClientError> {
        Ok(self.0.ask(PauseSchedule { name: name.to_owned() }).await?.changed)
    }

    /// Goes on with the first occurrence from now; what came due meanwhile is not made up for.
    /// Tells whether that changed anything.
    pub async fn resume(&self, name: &str) -> Result<bool, ClientError> {
        Ok(self.0.ask(ResumeSchedule { name: name.to_owned() }).await?.changed)
    }

    /// Forgets a schedule. Runs that it started go on.
    pub async fn remove(&self, name: &str) -> Result<(), ClientError> {
        self.0.done(RemoveSchedule { name: name.to_owned() }).await
    }

    /// Starts a page of the occurrences from `from` on and before `to`, at most 100, whatever the
    /// overlap policy and even while it is paused. What was started before is found and left as it
    /// is, for as long as its run is kept.
    ///
    /// Errors: [`Refusal::BadBackfill`](crate::Refusal::BadBackfill) if `to` has not passed.
    pub async fn backfill(
        &self,
        name: &str,
        from: Time,
        to: Time,
        limit: u32,
    ) -> Result<Filled, ClientError> {
        let limit = limit.min(BACKFILL_PAGE_MAX);
        let reply = self.0.ask(Backfill { name: name.to_owned(), from, to, limit }).await?;
        Ok(Filled { started: reply.started, existed: reply.existed, next: reply.next })
    }

    /// The id of an occurrence's run.
    pub fn run_id(&self, spec: &ScheduleSpec, nominal: Time) -> RunId {
        RunId::from_name(self.0.own_namespace(), &spec.run_name(nominal))
    }
}
