//! What the demo promised and what came of it.

use serde::Serialize;
use serde_json::json;

use super::dead_letter::DeadLetterFacts;
use super::processes::Kills;
use super::promise::Promise;
use super::provider::Ledger;
use super::queue_facts::QueueFacts;
use super::schedule::ScheduleFacts;
use super::tally::Counts;
use super::urgent::UrgentFacts;
use crate::quantity::{counted, grouped};
use crate::terminal::{Column, pairs, table};

/// Everything that is told at the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Orders in the file.
    pub(crate) orders: u64,
    /// Runs that completed.
    pub(crate) completed: u64,
    /// Runs that completed with the receipt they should have.
    pub(crate) receipts: u64,
    /// Orders without a run.
    pub(crate) lost: u64,
    /// Runs that are dead letters.
    pub(crate) dead_letters: u64,
    /// Runs that neither completed nor are dead letters nor lost.
    pub(crate) unfinished: u64,
    /// Steps in all journals.
    pub(crate) steps: u64,
    /// Steps that stand in a journal twice, or not at all.
    pub(crate) steps_wrong: u64,
    /// Attempts that failed, in all journals.
    pub(crate) attempts_failed: u64,
    /// Orders charged exactly once, with the right amount.
    pub(crate) charged_once: u64,
    /// Orders with exactly one mail, to the right address.
    pub(crate) mailed_once: u64,
    /// Effects at the provider.
    pub(crate) charges: u64,
    /// Effects at the provider.
    pub(crate) mails: u64,
    /// What was charged in all.
    pub(crate) cents: u64,
    /// The orders and the exports, each with slots of their own.
    pub(crate) queue_facts: QueueFacts,
    /// The order that overtook the others, if there was one.
    pub(crate) urgent: Option<UrgentFacts>,
    /// The order that died and was repaired.
    pub(crate) dead_letter: DeadLetterFacts,
    /// The schedule's times and their runs.
    pub(crate) schedule: ScheduleFacts,
    /// What the server counted.
    pub(crate) counts: Counts,
    /// Kills.
    pub(crate) kills: Kills,
    /// What the provider saw.
    pub(crate) calls: Calls,
    /// How long it took.
    pub(crate) seconds: f64,
    /// The first things found wrong, with names.
    pub(crate) findings: Vec<String>,
}

/// Calls the provider saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    total: u64,
    duplicates: u64,
    unavailable: u64,
    lost: u64,
    refused: u64,
}

impl From<&Ledger> for Calls {
    fn from(ledger: &Ledger) -> Self {
        Self {
            total: ledger.calls,
            duplicates: ledger.duplicates,
            unavailable: ledger.unavailable,
            lost: ledger.lost,
            refused: ledger.refused,
        }
    }
}

impl Report {
    fn promises(&self) -> Vec<Promise> {
        let promise = Promise::exactly;
        let mut promises = vec![
            promise("orders completed", self.orders, self.completed),
            promise("orders lost", 0, self.lost),
            promise("dead letters left", 0, self.dead_letters),
            promise(
                "orders charged exactly once, the right amount",
                self.orders,
                self.charged_once,
            ),
            promise("orders with exactly one mail", self.orders, self.mailed_once),
            promise("charges in all", self.orders, self.charges),
            promise("mails in all", self.orders, self.mails),
            promise("receipts as expected", self.orders, self.receipts),
            promise("steps not exactly once in their journal", 0, self.steps_wrong),
        ];
        promises.extend(self.queue_facts.promises());
        promises.extend(self.urgent.iter().flat_map(UrgentFacts::promises));
        promises.extend(self.dead_letter.promises());
        promises.extend(self.schedule.promises());
        promises
    }

    /// Whether all is as promised.
    pub(crate) fn is_kept(&self) -> bool {
        self.promises().iter().all(Promise::kept)
    }

    /// For programs.
    pub(crate) fn json(&self) -> impl Serialize {
        json!({
            "promises_kept": self.is_kept(),
            "orders": self.orders,
            "orders_completed": self.completed,
            "orders_lost": self.lost,
            "orders_unfinished": self.unfinished,
            "dead_letters": self.dead_letters,
            "receipts_right": self.receipts,
            "orders_charged_once": self.charged_once,
            "orders_mailed_once": self.mailed_once,
            "charges": self.charges,
            "charged_cents": self.cents,
            "mails": self.mails,
            "steps_completed": self.steps,
            "steps_wrong": self.steps_wrong,
            "attempts_failed": self.attempts_failed,
            "outcomes_replayed": self.counts.replayed,
            "redeliveries": self.counts.redeliveries,
            "late_reports_refused": self.counts.refused_late,
            "duplicate_reports": self.counts.repeated,
            "sessions_lost": self.counts.sessions_lost,
            "worker_kills": self.kills.workers,
            "server_kills": self.kills.servers,
            "provider_calls": self.calls.total,
            "provider_duplicates": self.calls.duplicates,
            "provider_unavailable": self.calls.unavailable,
            "provider_replies_lost": self.calls.lost,
            "provider_refused": self.calls.refused,
            "queues": self.queue_facts.json(),
            "urgent": self.urgent.as_ref().map(UrgentFacts::json),
            "dead_letter": self.dead_letter.json(),
            "schedule": self.schedule.json(),
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "broken": self.broken(),
            "findings": self.findings,
        })
    }

    /// A line for each broken promise.
    fn broken(&self) -> Vec<String> {
        self.promises().iter().filter_map(Promise::broken).collect()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let rows = self.promises().iter().map(Promise::row).collect();
        let columns = [
            Column::Left("PROMISE"),
            Column::Right("PROMISED"),
            Column::Right("SEEN"),
            Column::Left(""),
        ];
        let mut text = table(&columns, rows);
        let mut section = |heading: &str, body: String| {
            text.push_str(&format!("\n{heading}\n"));
            for line in body.lines() {
                text.push_str(&format!("  {line}\n"));
            }
        };
        section("WHAT HAPPENED", pairs(self.happened()));
        section("TWO QUEUES, SLOTS OF THEIR OWN", self.queue_facts.text());
        if let Some(urgent) = &self.urgent {
            section("AN URGENT ORDER, PRIORITY 0", urgent.text());
        }
        section("A DEAD LETTER", self.dead_letter.text());
        section("A SCHEDULE", self.schedule.text());
        for line in self.broken().iter().chain(&self.findings) {
            text.push_str(&format!("\nbroken: {line}"));
        }
        text
    }

    fn happened(&self) -> Vec<(&'static str, String)> {
        let kills = format!(
            "{}, {}",
            counted(self.kills.workers, "worker", "workers"),
            counted(self.kills.servers, "server", "servers")
        );
        vec![
            ("killed with kill -9", kills),
            ("redeliveries after a death", grouped(self.counts.redeliveries)),
            ("steps completed", grouped(self.steps)),
            ("outcomes replayed from the journal", grouped(self.counts.replayed)),
            ("attempts that failed and were repeated", grouped(self.attempts_failed)),
            ("late reports refused", grouped(self.counts.refused_late)),
            ("calls the provider saw", grouped(self.calls.total)),
            ("  answered with 503", grouped(self.calls.unavailable)),
            ("  took effect, answer lost", grouped(self.calls.lost)),
            ("  duplicates absorbed by their key", grouped(self.calls.duplicates)),
            ("charged in all", format!("{}.{:02}", grouped(self.cents / 100), self.cents % 100)),
            ("time", format!("{:.1} s", self.seconds)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_charge_too_many_breaks_the_promise() {
        let mut report = Report {
            orders: 2,
            completed: 2,
            receipts: 2,
            charged_once: 2,
            mailed_once: 2,
            charges: 2,
            mails: 2,
            ..Report::default()
        };
        let others = report.broken();
        assert!(others.iter().all(|line| !line.starts_with("charges")));
        report.charges = 3;
        let broken = "charges in all: 2 promised, 3 seen";
        assert!(!report.is_kept() && report.broken().contains(&broken.to_owned()));
        assert!(report.text().contains(&format!("broken: {broken}")));
    }

    /// A demo in which nothing was played keeps none of the scenes' promises.
    #[test]
    fn what_was_not_seen_is_not_kept() {
        let report = Report { urgent: Some(UrgentFacts::default()), ..Report::default() };
        let broken = report.broken().join("\n");
        for what in ["urgent", "edit and redrive", "repaired", "stock reports"] {
            assert!(broken.contains(what), "{what} is not in\n{broken}");
        }
    }
}
