//! `stepwell queue …`: list queues, pause them and limit them.

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use stepwell::{QueueChange, QueueSettings, QueueSummary, RateLimit};

use crate::connection::{ConnectArgs, Connection, asked};
use crate::failure::{Answer, CommandError};
use crate::quantity::{self, counted, grouped};
use crate::terminal::{Column, Terminal, pairs, table};

/// How often a drain looks.
const LOOK: Duration = Duration::from_millis(100);
/// Where there is no terminal, a draining queue is told of this often.
const LOOKS_PER_LINE: u32 = 50;

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues: their counts, limits, and why runs wait
    List(ListQueues),
    /// Print one queue
    Show(OneQueue),
    /// Pause a queue: new runs are accepted, none is dispatched, running ones go on
    Pause(OneQueue),
    /// Resume a paused queue
    Resume(OneQueue),
    /// Pause a queue and wait until none of its runs is running
    Drain(OneQueue),
    /// Limit how many runs a queue dispatches; limits that are not named stay as they are
    Limit(Limit),
}

#[derive(Debug, Args)]
pub(crate) struct ListQueues {
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OneQueue {
    /// The queue's name
    queue: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Limit {
    /// The queue's name; created if missing
    queue: String,
    /// Limit the running runs to N over all workers, or `none`
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    concurrency: Option<u32>,
    /// Limit the dispatches per period (100/s, 30/m, 5/250ms), or `none`
    #[arg(long, value_name = "RATE", value_parser = rate_or_none)]
    rate: Option<RateLimit>,
    /// Allow N dispatches at once after a quiet time [default: the count of the rate]
    #[arg(long, value_name = "N", requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    burst: Option<u32>,
    /// Give one dispatch in N to the run that has been queued longest, whatever its priority, or `none`
    /// [default: 10]
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    oldest_every: Option<u32>,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl QueueCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        match self {
            Self::List(list) => list.execute(terminal).await,
            Self::Show(one) => one.show(terminal).await,
            Self::Pause(one) => one.pause(true, terminal).await,
            Self::Resume(one) => one.pause(false, terminal).await,
            Self::Drain(one) => one.drain(terminal).await,
            Self::Limit(limit) => limit.execute(terminal).await,
        }
    }
}

impl ListQueues {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let queues = connection.client.queues().list().await.map_err(|e| asked(&e))?;
        let document = json!({ "queues": queues.iter().map(document).collect::<Vec<_>>() });
        terminal.data(&document, || list_text(&queues))?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

impl OneQueue {
    async fn show(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let queue = ask(&connection, &self.queue).await?;
        terminal.data(&document(&queue), || text(&queue))?;
        connection.close().await;
        Ok(Answer::Yes)
    }

    async fn pause(self, paused: bool, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let queues = connection.client.queues();
        let set = match paused {
            true => queues.pause(&self.queue).await,
            false => queues.resume(&self.queue).await,
        };
        set.map_err(|e| asked(&e))?;
        let queue = ask(&connection, &self.queue).await?;
        terminal.data(&document(&queue), || is_set(&queue))?;
        connection.close().await;
        Ok(Answer::Yes)
    }

    async fn drain(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.connect.open().await?;
        let paused = connection.client.queues().pause(&self.queue).await;
        paused.map_err(|e| asked(&e))?;
        let mut queue = ask(&connection, &self.queue).await?;
        let mut draining = Draining::begin(terminal, queue.running);
        // An engine that this command opened has no workers: running runs stay so.
        while queue.running > 0 && !connection.is_still() {
            draining.show(&queue);
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = tokio::signal::ctrl_c() => return Err(left(&queue)),
            }
            queue = ask(&connection, &self.queue).await?;
        }
        draining.end();
        terminal.data(&document(&queue), || is_set(&queue))?;
        connection.close().await;
        Ok(if queue.running == 0 { Answer::Yes } else { Answer::No })
    }
}

impl Limit {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        if self.concurrency.is_none() && self.rate.is_none() && self.oldest_every.is_none() {
            return Err(CommandError::bad_input("no limit given")
                .hint("name at least one of --concurrency, --rate and --oldest-every"));
        }
        let rate = self.rate.map(|rate| rate.burst(self.burst.unwrap_or(rate.burst)));
        let change = QueueChange::default()
            .concurrency(self.concurrency)
            .rate(rate)
            .oldest_every(self.oldest_every)
            .create(true);
        let connection = self.connect.open().await?;
        let set = connection.client.queues().set(&self.queue, change).await;
        set.map_err(|e| asked(&e))?;
        let queue = ask(&connection, &self.queue).await?;
        terminal.data(&document(&queue), || is_set(&queue))?;
        connection.close().await;
        Ok(Answer::Yes)
    }
}

async fn ask(connection: &Connection, queue: &str) -> Result<QueueSummary, CommandError> {
    let shown = connection.client.queues().show(queue).await;
    shown.map_err(|e| asked(&e))
}

/// A drain that was left before its end.
fn left(queue: &QueueSummary) -> CommandError {
    let running = counted(queue.running, "run is", "runs are");
    CommandError::refused_as(
        "interrupted",
        format!("`{}` stays paused; {running} still running", queue.name),
    )
    .hint(format!("`stepwell queue resume {}` dispatches again", queue.name))
}

/// What is shown while a queue drains: a bar on a terminal, a line now and then elsewhere.
struct Draining {
    terminal: Terminal,
    bar: Option<ProgressBar>,
    most: u64,
    looks: u32,
}

impl Draining {
    fn begin(terminal: Terminal, running: u64) -> Self {
        let bar = (terminal.draws() && running > 0).then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(Some(running), target);
            let style = ProgressStyle::with_template(
                "  [{bar:40}] {human_pos} of {human_len} ended, {elapsed}",
            );
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar
        });
        Self { terminal, bar, most: running, looks: 0 }
    }

    fn show(&mut self, queue: &QueueSummary) {
        match &self.bar {
            Some(bar) => bar.set_position(self.most.saturating_sub(queue.running)),
            None if self.looks.is_multiple_of(LOOKS_PER_LINE) => {
                let running = counted(queue.running, "run is", "runs are");
                self.terminal.note(format!("{running} still running"));
            }
            None => {}
        }
        self.looks += 1;
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One line after something was set.
fn is_set(queue: &QueueSummary) -> String {
    let limits = limits(&queue.settings);
    let state = match (queue.settings.paused, limits.is_empty()) {
        (true, true) => "paused".to_owned(),
        (true, false) => format!("paused; {limits}"),
        (false, true) => "active, without limits".to_owned(),
        (false, false) => format!("active; {limits}"),
    };
    format!(
        "`{}` is {state} ({} running, {} queued)",
        queue.name,
        grouped(queue.running),
        grouped(queue.queued)
    )
}

fn list_text(queues: &[QueueSummary]) -> String {
    let rows = queues.iter().map(|queue| {
        let why = queue.reasons.first().cloned().unwrap_or_default();
        let more = queue.reasons.len().saturating_sub(1);
        vec![
            queue.name.clone(),
            grouped(queue.queued),
            age(queue),
            grouped(queue.running),
            grouped(queue.delayed),
            grouped(queue.suspended),
            grouped(queue.slots),
            limits(&queue.settings),
            match more {
                0 => why,
                _ => format!("{why}, and {more} more"),
            },
        ]
    });
    table(
        &[
            Column::Left("QUEUE"),
            Column::Right("QUEUED"),
            Column::Right("OLDEST"),
            Column::Right("RUNNING"),
            Column::Right("DELAYED"),
            Column::Right("SUSPENDED"),
            Column::Right("SLOTS"),
            Column::Left("LIMITS"),
            Column::Left("WHY IT WAITS"),
        ],
        rows.collect(),
    )
}

fn text(queue: &QueueSummary) -> String {
    let settings = &queue.settings;
    let none = || "none".to_owned();
    let every = match settings.oldest_every() {
        0 => "none: strictly by priority".to_owned(),
        every => format!("one dispatch in {every}"),
    };
    let mut rows = vec![
        ("queue", queue.name.clone()),
        ("state", if settings.paused { "paused" } else { "active" }.to_owned()),
        ("queued", grouped(queue.queued)),
        ("oldest queued", Some(age(queue)).filter(|a| !a.is_empty()).unwrap_or_else(none)),
        ("running", grouped(queue.running)),
        ("delayed", grouped(queue.delayed)),
        ("suspended", grouped(queue.suspended)),
        ("workers", grouped(queue.workers)),
        ("slots", grouped(queue.slots)),
        ("concurrency limit", settings.concurrency.map_or_else(none, |n| grouped(n.into()))),
        ("rate limit", settings.rate.map_or_else(none, |rate| rate.to_string())),
        ("share of the oldest", every),
    ];
    rows.extend(queue.reasons.iter().map(|why| ("waits because", why.clone())));
    pairs(rows)
}

fn document(queue: &QueueSummary) -> Value {
    let settings = &queue.settings;
    json!({
        "name": queue.name,
        "state": if settings.paused { "paused" } else { "active" },
        "paused": settings.paused,
        "queued": queue.queued,
        "running": queue.running,
        "delayed": queue.delayed,
        "suspended": queue.suspended,
        "oldest_queued_ms": queue.oldest_since.map(|since| queue.now.since(since).as_millis() as u64),
        "workers": queue.workers,
        "slots": queue.slots,
        "concurrency": settings.concurrency,
        "rate": settings.rate.map(|rate| json!({
            "count": rate.count,
            "per_ms": rate.per_ms,
            "burst": rate.burst,
        })),
        "oldest_every": settings.oldest_every(),
        "reasons": queue.reasons,
    })
}

fn limits(settings: &QueueSettings) -> String {
    let parts = [
        settings.concurrency.map(|limit| format!("concurrency {}", grouped(limit.into()))),
        settings.rate.map(|rate| format!("rate {rate}")),
        settings.oldest_every.map(|every| match every {
            0 => "no share of the oldest".to_owned(),
            _ => format!("share of the oldest 1 in {every}"),
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join("; ")
}

/// How long the oldest queued run waits.
fn age(queue: &QueueSummary) -> String {
    let Some(since) = queue.oldest_since else {
        return String::new();
    };
    let age = queue.now.since(since);
    match age.as_secs() {
        0..10 => format!("{:.1} s", age.as_secs_f64()),
        10..120 => format!("{} s", age.as_secs()),
        120..7_200 => format!("{} min", age.as_secs() / 60),
        7_200..172_800 => format!("{} h", age.as_secs() / 3_600),
        secs => format!("{} d", secs / 86_400),
    }
}

/// A number of one or more; 0 stands for none.
fn number_or_none(text: &str) -> Result<u32, String> {
    match text {
        "none" => Ok(0),
        _ => match text.parse() {
            Ok(0) | Err(_) => {
                Err(format!("expected a whole number from 1 to {}, or `none`", u32::MAX))
            }
            Ok(number) => Ok(number),
        },
    }
}

/// Reads `100/s`, `30/m`, `5/250ms`; the burst is as large as the count.
fn rate_or_none(text: &str) -> Result<RateLimit, String> {
    if text == "none" {
        return Ok(RateLimit::NONE);
    }
    let hint =
        "expected a number of one or more and a time, like 100/s, 30/m or 5/250ms, or `none`";
    let (count, per) = text.split_once('/').ok_or(hint)?;
    let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or(hint)?;
    let per = per.trim();
    let per = match per.starts_with(|c: char| c.is_ascii_digit()) {
        true => quantity::span(per)?,
        false => quantity::span(&format!("1{per}"))?,
    };
    Ok(RateLimit::new(count, per))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_told() {
        for text in ["100/s", "30/m", "5/250ms", "7/2h"] {
            let rate = rate_or_none(text).unwrap();
            assert_eq!(rate.to_string(), format!("{text}, burst {}", rate.count));
        }
        assert_eq!(rate_or_none("none").unwrap().count, 0);
        for text in ["100", "0/s", "x/s", "5/", "5/fortnight"] {
            assert!(rate_or_none(text).is_err(), "{text}");
        }
    }
}
