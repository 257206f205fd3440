//! What the report says of the scenes: their promises, their figures for programs and for people.

use serde_json::{Value, json};
use stepwell::model::dead::AuditEntry;
use stepwell::model::failure::displayed_class;

use super::dead_letter::DeadLetterFacts;
use super::processes::WORKERS;
use super::promise::Promise;
use super::queue_facts::{QueueFacts, percentile};
use super::schedule::{EVERY, ScheduleFacts};
use super::urgent::{AHEAD_MAX, UrgentFacts};
use super::worker::{EXPORT_SLOTS, ORDER_SLOTS};
use crate::clock;
use crate::quantity::{counted, grouped};
use crate::terminal::pairs;

impl QueueFacts {
    /// Of the exports, and of the orders beside them.
    pub(crate) fn promises(&self) -> Vec<Promise> {
        let mut promises = vec![Promise::exactly(
            "exports completed, each page once",
            self.exports,
            self.completed,
        )];
        // Of a handful of orders none may arrive while exports wait. Then there is nothing to
        // promise.
        let waited = percentile(&self.orders_waited_ms, 50);
        if let (Some(waited), Some(took)) = (waited, self.export_ms_min) {
            promises.push(Promise::at_most(
                "ms an order waits beside exports (median)",
                took,
                Some(waited),
            ));
        }
        promises
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let orders = |percent| percentile(&self.orders_waited_ms, percent);
        let exports = |percent| percentile(&self.exports_waited_ms, percent);
        json!({
            "order_slots": slots(ORDER_SLOTS),
            "export_slots": slots(EXPORT_SLOTS),
            "exports": self.exports,
            "exports_completed": self.completed,
            "exports_queued_max": self.queued_max,
            "orders_beside_exports": self.orders_waited_ms.len(),
            "order_waited_ms_p50": orders(50),
            "order_waited_ms_p99": orders(99),
            "order_waited_ms_max": orders(100),
            "export_waited_ms_p50": exports(50),
            "export_waited_ms_max": exports(100),
            "export_took_ms_min": self.export_ms_min,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let beside = match self.orders_waited_ms.len() as u64 {
            0 => "none arrived while exports waited".to_owned(),
            count => format!(
                "{} arrived beside up to {}",
                counted(count, "order", "orders"),
                counted(self.queued_max, "queued export", "queued exports"),
            ),
        };
        let took = self.export_ms_min.map_or("none did".to_owned(), span);
        pairs(vec![
            (
                "slots of all workers",
                format!("{} for orders, {} for exports", slots(ORDER_SLOTS), slots(EXPORT_SLOTS)),
            ),
            ("the quickest export took", took),
            ("an export waited", waits(&self.exports_waited_ms)),
            ("an order waited", waits(&self.orders_waited_ms)),
            ("  measured", beside),
        ])
    }
}

impl UrgentFacts {
    /// Of the order.
    pub(crate) fn promises(&self) -> Vec<Promise> {
        vec![Promise::at_most(
            "queued orders dispatched before the urgent one",
            AHEAD_MAX,
            self.ahead_of_urgent(),
        )]
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "order": self.order_id,
            "priority": self.priority,
            "queued_before": self.queued_before,
            "dispatched_before": self.ahead,
            "waited_ms": self.waited_ms,
            "others_waited_ms_p50": percentile(&self.others_waited_ms, 50),
            "others_waited_ms_max": percentile(&self.others_waited_ms, 100),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let waited = match self.waited_ms {
            Some(ms) => span(ms),
            None => "until the end: it never began".to_owned(),
        };
        pairs(vec![
            ("order", self.order_id.clone()),
            ("queued when it arrived", grouped(self.queued_before)),
            ("dispatched before it", grouped(self.ahead)),
            ("it waited", waited),
            ("the others waited", waits(&self.others_waited_ms)),
        ])
    }
}

impl DeadLetterFacts {
    /// Of the order that died.
    pub(crate) fn promises(&self) -> Vec<Promise> {
        vec![
            Promise::exactly(
                "dead letters found, edit and redrive recorded",
                1,
                u64::from(self.is_recorded()),
            ),
            Promise::exactly(
                "dead letters repaired: completed, charged once",
                1,
                u64::from(self.is_repaired()),
            ),
        ]
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let entry = |entry: &AuditEntry| {
            json!({
                "at": entry.at.to_string(),
                "principal": entry.principal,
                "action": entry.action.as_str(),
                "detail": entry.detail,
            })
        };
        json!({
            "order": self.order_id,
            "class": self.letter.as_ref().map(|l| displayed_class(&l.class)),
            "message": self.letter.as_ref().map(|l| &l.message),
            "died_at": self.letter.as_ref().map(|l| l.died_at.to_string()),
            "audit": self.entries.iter().map(entry).collect::<Vec<_>>(),
            "completed": self.completed,
            "charges": self.charges,
            "mails": self.mails,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let when = |at: stepwell::Time| clock::seconds(&at.to_string());
        let mut rows = vec![("order", self.order_id.clone())];
        match &self.letter {
            Some(letter) => {
                rows.push(("why", letter.message.clone()));
                rows.push(("died", when(letter.died_at)));
            }
            None => rows.push(("died", "it was in no list".to_owned())),
        }
        for entry in &self.entries {
            let what = format!("{}, by {}", when(entry.at), entry.principal);
            rows.push((entry.action.as_str(), what));
        }
        let end = match self.completed {
            true => "completed",
            false => "not completed",
        };
        let charged = counted(self.charges, "charge", "charges");
        let mailed = counted(self.mails, "mail", "mails");
        rows.push(("outcome", format!("{end}, {charged}, {mailed}")));
        pairs(rows)
    }
}

impl ScheduleFacts {
    /// Of the occurrences.
    pub(crate) fn promises(&self) -> Vec<Promise> {
        // A demo takes seconds: there must have been an occurrence.
        let occurrences = self.occurrences.max(1);
        vec![
            Promise::exactly("occurrences with exactly one run", occurrences, self.one_run),
            Promise::exactly("scheduled runs too many", 0, self.stray),
            Promise::exactly("stock reports sent exactly once", occurrences, self.one_report),
        ]
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "every_ms": EVERY.as_millis() as u64,
            "occurrences": self.occurrences,
            "ran_once": self.one_run,
            "reported_once": self.one_report,
            "runs_too_many": self.stray,
            "caught_up": self.caught_up,
            "first_run": self.names.as_ref().map(|n| &n.0),
            "last_run": self.names.as_ref().map(|n| &n.1),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let (first, last) = self.names.clone().unwrap_or_default();
        let times = format!("{}, one every {} s", grouped(self.occurrences), EVERY.as_secs());
        let mut rows = vec![
            ("occurrences", times),
            ("ran exactly once", grouped(self.one_run)),
            ("first run", first),
            ("last run", last),
        ];
        if self.caught_up > 0 {
            let caught_up = format!("{}, missed while the server was dead", self.caught_up);
            rows.insert(2, ("of these by a backfill", caught_up));
        }
        pairs(rows)
    }
}

fn slots(of_one: u32) -> u64 {
    u64::from(of_one) * WORKERS as u64
}

/// `4 ms at the median, 310 ms at most`, of a sorted list.
fn waits(sorted: &[u64]) -> String {
    match (percentile(sorted, 50), percentile(sorted, 100)) {
        (Some(median), Some(most)) => {
            format!("{} at the median, {} at most", span(median), span(most))
        }
        _ => "none did".to_owned(),
    }
}

fn span(ms: u64) -> String {
    clock::span(std::time::Duration::from_millis(ms))
}
