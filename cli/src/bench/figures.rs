//! What was measured, under stable names.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::quantity::{bytes_text, grouped};
use crate::terminal::{Column, table};

/// Everything a measurement may tell. The names of the fields are stable; those that do not apply
/// are left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// `embedded` or `served`.
    pub(crate) mode: String,
    /// `rate`, `arrivals`, `starts`, `suspended`, `queued` or `replay`.
    pub(crate) measured: String,
    /// Steps of a run.
    pub(crate) steps: u64,
    /// Runs at a time, or in all, or a second.
    pub(crate) in_flight: u64,
    /// Bytes a step returns.
    pub(crate) payload_bytes: u64,
    /// Length of the window.
    pub(crate) seconds: f64,
    /// Runs that completed in the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runs: Option<u64>,
    /// Runs completed a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runs_per_s: Option<f64>,
    /// Steps committed a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steps_per_s: Option<f64>,
    /// From the call of start to the outcome, at the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_p50_us: Option<u64>,
    /// The same, 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_p99_us: Option<u64>,
    /// From one step's body to the next one's within a run, in the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step_p50_us: Option<u64>,
    /// The same, 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step_p99_us: Option<u64>,
    /// A call of start, at the client, with all slots busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) call_p50_us: Option<u64>,
    /// The same, 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) call_p99_us: Option<u64>,
    /// From when a run was to be started to the beginning of its function, median of the windows'
    /// medians.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_p50_us: Option<u64>,
    /// The same, median of the windows' 99th percentiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_p99_us: Option<u64>,
    /// The smallest and the largest of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_p99_us_spread: Option<Range<u64>>,
    /// `start_p50_us` beside slow runs of another queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_p50_us_beside: Option<u64>,
    /// `start_p99_us` beside slow runs of another queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_p99_us_beside: Option<u64>,
    /// How many of those were queued in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beside_queued: Option<u64>,
    /// Resident memory of the engine's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_bytes_server: Option<u64>,
    /// Resident memory of the worker's process, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_bytes_worker: Option<u64>,
    /// Bytes handed to the write-ahead log for each step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wal_bytes_per_step: Option<f64>,
    /// Until all runs were queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue_s: Option<f64>,
    /// Runs dispatched a second, with all of them queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dispatches_per_s: Option<f64>,
    /// The same with 1,000 queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dispatches_per_s_few: Option<f64>,
    /// From the start of an urgent run behind them to its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) urgent_ms: Option<f64>,
    /// Bytes on disk for each suspended run, or each queued run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_bytes_per_run: Option<f64>,
    /// Until all runs were started and suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) suspend_s: Option<f64>,
    /// Resident memory of the engine's process after it was killed and opened the store again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_bytes_reopened: Option<u64>,
    /// From the start of a new engine process until it answered and a fresh run had completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready_s: Option<f64>,
    /// From the restart until the long run had finished: the slower of engine killed and worker
    /// killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finish_s: Option<f64>,
    /// The same, when only the worker was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finish_worker_killed_s: Option<f64>,
    /// The same, when only the server was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finish_server_killed_s: Option<f64>,
    /// The same, when both were killed at once: one session timeout longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finish_both_killed_s: Option<f64>,
    /// Starts and outcomes that were not as expected.
    pub(crate) errors: u64,
    /// Appends of 4 KiB with `fdatasync`, a second, just before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) raw_fdatasync_per_s: Option<f64>,
    /// A synced commit of one put of the same bytes on bare fjall, median, just before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) raw_fjall_commit_p50_us: Option<f64>,
    /// The same, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) raw_fjall_commits_per_s: Option<f64>,
}

impl Figures {
    /// For people: each figure, and its ratio to what the disk or bare fjall does.
    pub(crate) fn text(&self) -> String {
        let (commits, commit) = (self.raw_fjall_commits_per_s, self.raw_fjall_commit_p50_us);
        let per_s = |n: f64| grouped(n.round() as u64);
        let us = |n: u64| format!("{} µs", grouped(n));
        let seconds = |n: f64| format!("{n:.2} s");
        let mut rows = Vec::new();
        let mut row = |name: &str, value: Option<String>, beside: Option<String>| {
            if let Some(value) = value {
                rows.push(vec![name.to_owned(), value, beside.unwrap_or_default()]);
            }
        };
        row("runs per second", self.runs_per_s.map(per_s), None);
        row(
            "steps per second",
            self.steps_per_s.map(per_s),
            times(self.steps_per_s, commits, "bare fjall commits"),
        );
        row("run, p50", self.run_p50_us.map(us), None);
        row("run, p99", self.run_p99_us.map(us), None);
        row("step, p50", self.step_p50_us.map(us), above(self.step_p50_us, commit));
        row("step, p99", self.step_p99_us.map(us), None);
        row("call of start, p50", self.call_p50_us.map(us), above(self.call_p50_us, commit));
        row(
            "call of start, p99",
            self.call_p99_us.map(us),
            self.beside_queued
                .map(|queued| format!("all slots busy for 5 s each, {} queued", grouped(queued))),
        );
        row("started to begun, p50", self.start_p50_us.map(us), None);
        row(
            "started to begun, p99",
            self.start_p99_us.map(us),
            self.start_p99_us_spread
                .as_ref()
                .map(|spread| format!("windows from {} to {}", us(spread.start), us(spread.end))),
        );
        row(
            "  beside slow runs, p50",
            self.start_p50_us_beside.map(us),
            self.beside_queued.map(|queued| format!("{} of them queued", grouped(queued))),
        );
        row("  beside slow runs, p99", self.start_p99_us_beside.map(us), None);
        row("memory of the engine", self.rss_bytes_server.map(bytes_text), None);
        row("memory of the worker", self.rss_bytes_worker.map(bytes_text), None);
        row(
            "write-ahead log bytes per step",
            self.wal_bytes_per_step.map(|n| format!("{n:.0} B")),
            None,
        );
        row("disk bytes per run", self.disk_bytes_per_run.map(|n| format!("{n:.0} B")), None);
        row("all queued after", self.queue_s.map(seconds), None);
        row(
            "dispatched per second",
            self.dispatches_per_s.map(per_s),
            times(self.dispatches_per_s, self.dispatches_per_s_few, "that with 1,000 queued"),
        );
        row("  with 1,000 queued", self.dispatches_per_s_few.map(per_s), None);
        row("an urgent run behind them", self.urgent_ms.map(|ms| format!("{ms:.1} ms")), None);
        row("all suspended after", self.suspend_s.map(seconds), None);
        row("memory after reopening", self.rss_bytes_reopened.map(bytes_text), None);
        row("ready after kill -9", self.ready_s.map(seconds), None);
        row("finished after kill -9", self.finish_s.map(seconds), None);
        row("  worker killed", self.finish_worker_killed_s.map(seconds), None);
        row("  server killed", self.finish_server_killed_s.map(seconds), None);
        row(
            "  both killed at once",
            self.finish_both_killed_s.map(seconds),
            Some("leased to it for one session timeout".to_owned()),
        );
        row("errors", Some(grouped(self.errors)), None);
        row(
            "raw: append + fdatasync",
            self.raw_fdatasync_per_s.map(|n| format!("{} per s", per_s(n))),
            None,
        );
        row(
            "raw: bare fjall commit",
            commits.map(|n| format!("{} per s", per_s(n))),
            commit.map(|n| format!("p50 {n:.0} µs")),
        );
        table(&[Column::Left("FIGURE"), Column::Right("VALUE"), Column::Left("BESIDE")], rows)
    }
}

fn times(value: Option<f64>, raw: Option<f64>, what: &str) -> Option<String> {
    let (value, raw) = (value?, raw.filter(|raw| *raw > 0.0)?);
    Some(format!("{:.1} x {what}", value / raw))
}

fn above(value: Option<u64>, raw: Option<f64>) -> Option<String> {
    Some(format!("bare fjall commit {:+.0} µs", value? as f64 - raw?))
}

/// The `percent`th percentile; `None` of nothing.
pub(crate) fn percentile(samples: &mut [u32], percent: usize) -> Option<u64> {
    samples.sort_unstable();
    let last = samples.len().checked_sub(1)?;
    samples.get(last * percent / 100).map(|us| u64::from(*us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let mut samples: Vec<u32> = (1..=101).rev().collect();
        assert_eq!(percentile(&mut samples, 50), Some(51));
        assert_eq!(percentile(&mut samples, 99), Some(100));
        assert_eq!(percentile(&mut [], 50), None);
    }

    #[test]
    fn figures_that_do_not_apply_are_left_out() {
        let json =
            serde_json::to_value(Figures { ready_s: Some(1.5), ..Figures::default() }).unwrap();
        assert_eq!(json["ready_s"], 1.5);
        assert!(json.get("finish_s").is_none());
    }
}
