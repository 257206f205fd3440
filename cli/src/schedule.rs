//! `stepwell schedule …`: start runs at the times of cron expressions and at intervals.

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde_json::{Value, json};
use stepwell::model::payload::Payload;
use stepwell::model::schedule::{
    BACKFILL_PAGE_MAX, CATCH_UP_DEFAULT, NEXT_MAX, Occurrence, ScheduleInfo, When, nominal_text,
    span_text,
};
use stepwell::{Overlap, Schedules, Time};

use crate::connection::{ConnectArgs, Connection, asked};
use crate::failure::{Answer, CommandError};
use crate::quantity::{self, counted};
use crate::run::{input, payload_json};
use crate::terminal::{Column, Terminal, pairs, table};

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Create or change a schedule; durable when it returns
    Set(Set),
    /// List schedules, by name
    List(ListSchedules),
    /// Print a schedule and its next occurrences
    #[command(alias = "next")]
    Show(ShowSchedule),
    /// Start no more occurrences until the schedule is resumed
    Pause(OneSchedule),
    /// Resume with the first occurrence from now on
    Resume(OneSchedule),
    /// Start the occurrences of a past time range that have no run
    Backfill(Backfill),
    /// Remove a schedule; its runs go on
    Remove(OneSchedule),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("when").required(true))]
pub(crate) struct Set {
    /// The schedule's name
    name: String,
    /// The workflow of its runs
    #[arg(long, value_name = "WORKFLOW")]
    workflow: String,
    /// When: minute, hour, day of month, month, day of week; or six fields with the second in front
    #[arg(long, value_name = "EXPR", group = "when")]
    cron: Option<String>,
    /// When: at this interval (15m, 2h)
    #[arg(long, value_name = "DURATION", value_parser = quantity::span, group = "when")]
    every: Option<Duration>,
    /// The time zone of the cron expression
    #[arg(long, value_name = "ZONE", default_value = "UTC", conflicts_with = "every")]
    zone: String,
    /// The time from which intervals are counted [default: 1970-01-01T00:00:00Z]
    #[arg(long, value_name = "TIMESTAMP", value_parser = timestamp, requires = "every")]
    anchor: Option<Time>,
    /// The input of its runs: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON", default_value = "null")]
    input: String,
    /// The queue in which its runs wait for a worker
    #[arg(long, value_name = "QUEUE", default_value = "default")]
    queue: String,
    /// The priority of its runs, 0 first
    #[arg(long, value_name = "0-9", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// Require workers with this tag; may be given more than once
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Delay each occurrence by up to this much
    #[arg(long, value_name = "DURATION", value_parser = quantity::span)]
    jitter: Option<Duration>,
    /// What to do while the last run has not ended: skip, queue-one, queue-all, cancel-old, allow
    #[arg(long, value_name = "POLICY", default_value = "skip", value_parser = overlap)]
    overlap: Overlap,
    /// Start the newest missed occurrence if it is at most this old [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = quantity::span)]
    catch_up: Option<Duration>,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListSchedules {
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OneSchedule {
    /// The schedule's name
    name: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowSchedule {
    #[command(flatten)]
    one: OneSchedule,
    /// How many occurrences to print
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=i64::from(NEXT_MAX)))]
    count: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Backfill {
    #[command(flatten)]
    one: OneSchedule,
    /// Start occurrences from this time on (2026-03-01T00:00:00Z)
    #[arg(long, value_name = "TIMESTAMP", value_parser = timestamp)]
    from: Time,
    /// Start occurrences before this time, which must have passed
    #[arg(long, value_name = "TIMESTAMP", value_parser = timestamp)]
    to: Time,
    /// Limit the rate to N runs per second: 50/s
    #[arg(long, value_name = "N/s", default_value = "100/s", value_parser = quantity::per_second)]
    rate: u32,
}

impl ScheduleCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        match self {
            Self::Set(set) => set.execute(terminal).await,
            Self::List(list) => list.execute(terminal).await,
            Self::Show(show) => show.execute(terminal).await,
            Self::Pause(one) => one.switch(terminal, true).await,
            Self::Resume(one) => one.switch(terminal, false).await,
            Self::Backfill(backfill) => backfill.execute(terminal).await,
            Self::Remove(one) => one.remove(terminal).await,
        }
    }
}

impl Set {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let value = input(&self.input)?;
        let payload = Payload::from_json(&value).map_err(|e| {
            CommandError::bad_input("the input does not become a payload").caused_by(&e)
        })?;
        let connection = self.connect.open().await?;
        let schedule = connection
            .client
            .schedule_raw(&self.name, &self.workflow, payload)
            .queue(self.queue)
            .priority(self.priority)
            .tags(self.tag)
            .overlap(self.overlap)
            .jitter(self.jitter.unwrap_or_default())
            .catch_up(self.catch_up.unwrap_or(CATCH_UP_DEFAULT));
        let schedule = match (self.cron, self.every) {
            (Some(cron), _) => schedule.cron(cron).zone(self.zone),
            (None, every) => {
                schedule.every(every.unwrap_or_default()).anchor(self.anchor.unwrap_or_default())
            }
        };
        let set = schedule.set().await.map_err(|e| asked(&e))?;
        let mut document = info_json(&set.schedule);
        document["changed"] = json!(set.changed);
        terminal.data(&document, || {
            let next = set.schedule.state.next.map(nominal_text);
            let next = next.unwrap_or_else(|| "none: it is paused".to_owned());
            let was = if set.changed { "is set" } else { "was set to this already" };
            format!("{} {was}, next occurrence {next}", self.name)
        })?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

impl ListSchedules {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let schedules = connection.client.schedules().list().await.map_err(|e| asked(&e))?;
        let document = json!({ "schedules": schedules.iter().map(info_json).collect::<Vec<_>>() });
        terminal.data(&document, || list_text(&schedules))?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

impl ShowSchedule {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let (connection, schedules) = self.one.open().await?;
        let (schedule, next) =
            schedules.next(&self.one.name, self.count).await.map_err(|e| asked(&e))?;
        let mut document = info_json(&schedule);
        document["next"] = next.iter().map(|at| occurrence_json(&schedule, at)).collect();
        terminal.data(&document, || show_text(&schedule, &next))?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

impl OneSchedule {
    async fn open(&self) -> Result<(Connection, Schedules), CommandError> {
        let connection = self.connect.open().await?;
        let schedules = connection.client.schedules();
        Ok((connection, schedules))
    }

    async fn switch(self, terminal: Terminal, pause: bool) -> Result<Answer, CommandError> {
        let (connection, schedules) = self.open().await?;
        let changed = match pause {
            true => schedules.pause(&self.name).await,
            false => schedules.resume(&self.name).await,
        };
        let changed = changed.map_err(|e| asked(&e))?;
        let document = json!({ "name": self.name, "paused": pause, "changed": changed });
        terminal.data(&document, || {
            let state = if pause { "paused" } else { "resumed" };
            let was = if changed { "is" } else { "was already" };
            format!("{} {was} {state}", self.name)
        })?;
        connection.close().await;
        Ok(Answer::Yes)
    }

    async fn remove(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let (connection, schedules) = self.open().await?;
        schedules.remove(&self.name).await.map_err(|e| asked(&e))?;
        let document = json!({ "name": self.name, "removed": true });
        terminal.data(&document, || format!("{} is removed; its runs go on", self.name))?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

impl Backfill {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let (connection, schedules) = self.one.open().await?;
        let bar = self.bar(terminal);
        let (mut from, mut started, mut existed) = (self.from, 0, 0);
        loop {
            let page = schedules.backfill(&self.one.name, from, self.to, self.rate);
            let page = page.await.map_err(|e| asked(&e).after(started, from))?;
            started += page.started;
            existed += page.existed;
            let Some(next) = page.next else { break };
            from = next;
            if let Some(bar) = &bar {
                bar.set_position(from.since(self.from).as_secs());
                bar.set_message(format!(
                    "{started} started, {existed} existed already, at {}",
                    nominal_text(from)
                ));
            }
            let page = f64::from(self.rate.min(BACKFILL_PAGE_MAX));
            tokio::time::sleep(Duration::from_secs_f64(page / f64::from(self.rate))).await;
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let document = json!({ "name": self.one.name, "started": started, "existed": existed });
        terminal.data(&document, || {
            format!("{} started, {existed} existed already", counted(started, "run", "runs"))
        })?;
        connection.close().await;
        Ok(Answer::Yes)
    }

    fn bar(&self, terminal: Terminal) -> Option<ProgressBar> {
        terminal.draws().then(|| {
            let length = self.to.since(self.from).as_secs();
            let bar =
                ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("  [{bar:40}] {percent}% {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar
        })
    }
}

impl CommandError {
    /// What a backfill that broke off had done, and how to go on.
    fn after(self, started: u64, from: Time) -> Self {
        match started {
            0 => self,
            _ => self.hint(format!(
                "{started} were started; the same command goes on, or one with --from {}",
                nominal_text(from)
            )),
        }
    }
}

fn list_text(schedules: &[ScheduleInfo]) -> String {
    let row = |info: &ScheduleInfo| {
        let (spec, state) = (&info.spec, &info.state);
        vec![
            spec.name.clone(),
            spec.when.to_string(),
            spec.workflow.clone(),
            spec.overlap.as_str().to_owned(),
            state_word(info).to_owned(),
            state.next.map_or("-".to_owned(), nominal_text),
            state.last.map_or("-".to_owned(), nominal_text),
            quantity::grouped(state.started),
            quantity::grouped(state.skipped),
            quantity::grouped(state.missed),
        ]
    };
    table(
        &[
            Column::Left("SCHEDULE"),
            Column::Left("WHEN"),
            Column::Left("WORKFLOW"),
            Column::Left("OVERLAP"),
            Column::Left("STATE"),
            Column::Left("NEXT"),
            Column::Left("LAST"),
            Column::Right("STARTED"),
            Column::Right("SKIPPED"),
            Column::Right("MISSED"),
        ],
        schedules.iter().map(row).collect(),
    )
}

fn state_word(info: &ScheduleInfo) -> &'static str {
    if info.state.paused_by.is_some() { "paused" } else { "active" }
}

fn show_text(info: &ScheduleInfo, next: &[Occurrence]) -> String {
    let (spec, state) = (&info.spec, &info.state);
    let input = serde_json::to_string(&payload_json(&spec.input)).unwrap_or_default();
    let mut rows = vec![
        ("schedule", spec.name.clone()),
        ("state", state_word(info).to_owned()),
        ("when", spec.when.to_string()),
        ("workflow", spec.workflow.clone()),
        ("queue", format!("{}, priority {}", spec.queue, spec.priority)),
        ("input", input),
        ("overlap", spec.overlap.as_str().to_owned()),
        ("catch-up", span_text(spec.catch_up_ms)),
        ("set", format!("{} by {}", info.set_at, info.set_by)),
        ("last", state.last.map_or("-".to_owned(), |last| spec.run_name(last))),
        (
            "counts",
            format!(
                "{} started, {} skipped, {} missed, {} pending",
                state.started,
                state.skipped,
                state.missed,
                state.pending.len()
            ),
        ),
    ];
    if spec.jitter_ms > 0 {
        rows.insert(7, ("jitter", span_text(spec.jitter_ms)));
    }
    if let Some(by) = &state.paused_by {
        rows.push(("paused", format!("{} by {by}", state.at)));
    }
    let mut text = pairs(rows);
    if !next.is_empty() {
        text.push('\n');
        let mut columns = vec![Column::Left("NOMINAL (UTC)"), Column::Left("LOCAL")];
        columns.extend((spec.jitter_ms > 0).then_some(Column::Left("STARTS AT")));
        let row = |at: &Occurrence| {
            let mut row = vec![nominal_text(at.nominal), local_text(&spec.when, at.nominal)];
            row.extend((spec.jitter_ms > 0).then(|| nominal_text(at.due)));
            row
        };
        text.push_str(&table(&columns, next.iter().map(row).collect()));
    }
    text
}

/// A nominal time as clocks on the wall of its zone show it.
fn local_text(when: &When, nominal: Time) -> String {
    let zone = match when {
        When::CronTimes(cron) => cron.zone.as_str(),
        When::EveryTimes(_) => "UTC",
    };
    let at = i64::try_from(nominal.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let local = at.and_then(|at| at.in_tz(zone).ok());
    local.map_or_else(String::new, |local| local.strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string())
}

fn info_json(info: &ScheduleInfo) -> Value {
    let (spec, state) = (&info.spec, &info.state);
    let (cron, zone, every_ms, anchor) = match &spec.when {
        When::CronTimes(cron) => (Some(&cron.expression), Some(&cron.zone), None, None),
        When::EveryTimes(every) => {
            (None, None, Some(every.every_ms), Some(nominal_text(every.anchor)))
        }
    };
    json!({
        "name": spec.name,
        "state": state_word(info),
        "workflow": spec.workflow,
        "queue": spec.queue,
        "priority": spec.priority,
        "tags": spec.tags,
        "input": payload_json(&spec.input),
        "cron": cron,
        "zone": zone,
        "every_ms": every_ms,
        "anchor": anchor,
        "jitter_ms": spec.jitter_ms,
        "overlap": spec.overlap.as_str(),
        "catch_up_ms": spec.catch_up_ms,
        "set_at": info.set_at.to_string(),
        "set_by": info.set_by,
        "changed_at": state.at.to_string(),
        "paused_by": state.paused_by,
        "next_at": state.next.map(nominal_text),
        "last_at": state.last.map(nominal_text),
        "last_run": state.last.map(|last| spec.run_name(last)),
        "pending": state.pending.iter().map(|at| nominal_text(*at)).collect::<Vec<_>>(),
        "started": state.started,
        "skipped": state.skipped,
        "missed": state.missed,
    })
}

fn occurrence_json(info: &ScheduleInfo, at: &Occurrence) -> Value {
    json!({
        "nominal": nominal_text(at.nominal),
        "due": nominal_text(at.due),
        "local": local_text(&info.spec.when, at.nominal),
        "run": info.spec.run_name(at.nominal),
    })
}

fn overlap(word: &str) -> Result<Overlap, String> {
    let words = || Overlap::ALL.map(Overlap::as_str).join(", ");
    word.parse::<Overlap>().map_err(|_| format!("the policies are {}", words()))
}

fn timestamp(text: &str) -> Result<Time, String> {
    let expected = "expected a timestamp like 2026-03-01T00:00:00Z, from 1970 on";
    let at: Timestamp = text.parse().map_err(|_| expected.to_owned())?;
    let ms = u64::try_from(at.as_millisecond()).map_err(|_| expected.to_owned())?;
    Ok(Time(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_in_any_offset() {
        assert_eq!(timestamp("2026-03-01T00:00:00Z"), timestamp("2026-03-01T01:00:00+01:00"));
        assert!(timestamp("2026-03-01").unwrap_err().contains("2026-03-01T00:00:00Z"));
        assert!(timestamp("1969-03-01T00:00:00Z").is_err());
    }
}
