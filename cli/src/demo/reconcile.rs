//! Every order is reconciled: it is followed through its run, its journal and the provider's books,
//! then each of the scenes.

use std::collections::BTreeMap;

use stepwell::model::entry::Entry;
use stepwell::model::id::{CommandIndex, Namespace, RunId};
use stepwell::model::run::Outcome;

use super::orders::Order;
use super::provider::Ledger;
use super::queue_time::{self, Span};
use super::report::{Calls, Report};
use super::roles::Roles;
use super::scene_context::SceneContext;
use super::scenes::Played;
use super::workflow::{Receipt, parcel_of};
use super::{dead_letter, queue_facts, schedule, urgent};
use crate::failure::CommandError;

/// Steps of one order.
const STEPS: usize = 4;
/// How many findings are told.
const FINDINGS_MAX: usize = 10;

/// What the journals tell of when orders were queued.
#[derive(Debug, Default)]
struct Lines {
    /// Until they began.
    first: Vec<Span>,
    /// Each time, but for the urgent order.
    others: Vec<Span>,
    /// The urgent order's journal.
    urgent: Vec<Entry>,
}

/// Follows each order, and what became of the scenes. What it finds wrong is in the report, not an
/// error.
pub(crate) async fn reconcile(
    context: &SceneContext,
    orders: &[Order],
    roles: &Roles,
    played: Played,
    ledger: &Ledger,
) -> Result<Report, CommandError> {
    let mut report =
        Report { orders: orders.len() as u64, calls: Calls::from(ledger), ..Report::default() };
    report.charges = ledger.charges.values().map(|c| c.len() as u64).sum();
    report.mails = ledger.mails.values().map(|m| m.len() as u64).sum();
    report.cents = ledger.charges.values().flatten().map(|c| c.cents).sum();
    let urgent = roles.urgent.as_ref();
    let mut lines = Lines::default();
    for order in orders {
        let Some(journal) = follow(context, order, ledger, &mut report).await? else {
            continue;
        };
        if urgent == Some(order) {
            lines.urgent = journal;
            continue;
        }
        lines.first.extend(queue_time::first(&journal));
        lines.others.extend(queue_time::stands(&journal));
    }
    report.urgent = urgent.map(|order| urgent::reconcile(order, &lines.urgent, &lines.others));
    report.queue_facts =
        queue_facts::reconcile(context, played.exports, &lines.first, &played.unmeasured).await?;
    report.dead_letter =
        dead_letter::reconcile(context, &roles.mistyped, played.letter, ledger).await?;
    report.schedule = schedule::reconcile(context, &played.times, ledger).await?;
    Ok(report)
}

/// Follows one order. Returns its journal, if it has a run.
async fn follow(
    context: &SceneContext,
    order: &Order,
    ledger: &Ledger,
    report: &mut Report,
) -> Result<Option<Vec<Entry>>, CommandError> {
    let id = RunId::from_name(Namespace::default(), &order.order_id);
    let Some((outcome, journal)) = context.run(id).await? else {
        report.lost += 1;
        find(report, &order.order_id, "has no run");
        return Ok(None);
    };
    count_outcome(report, order, &outcome);
    count_journal(report, order, &journal);
    count_effects(report, order, ledger);
    Ok(Some(journal))
}

fn count_outcome(report: &mut Report, order: &Order, outcome: &Outcome) {
    match outcome {
        Outcome::OutcomeCompleted(done) => {
            report.completed += 1;
            match done.output.to::<Receipt>() {
                Ok(receipt) if is_right(order, &receipt) => report.receipts += 1,
                Ok(receipt) => {
                    find(report, &order.order_id, &format!("has a wrong receipt: {receipt:?}"))
                }
                Err(error) => find(
                    report,
                    &order.order_id,
                    &format!("has a receipt that does not decode: {error}"),
                ),
            }
        }
        Outcome::OutcomeDead(dead) => {
            report.dead_letters += 1;
            find(report, &order.order_id, &format!("is a dead letter: {}", dead.failure));
        }
        Outcome::OutcomeCancelled(_) => {
            report.unfinished += 1;
            find(report, &order.order_id, "is cancelled");
        }
        Outcome::OutcomePending(pending) => {
            report.unfinished += 1;
            find(report, &order.order_id, &format!("has not ended: it is {}", pending.state));
        }
    }
}

fn is_right(order: &Order, receipt: &Receipt) -> bool {
    receipt.order_id == order.order_id
        && receipt.cents == order.cents
        && receipt.parcel == parcel_of(&order.order_id)
        && receipt.charge.starts_with("charge-")
        && receipt.mail.starts_with("mail-")
}

fn count_journal(report: &mut Report, order: &Order, journal: &[Entry]) {
    let mut times: BTreeMap<CommandIndex, u64> = BTreeMap::new();
    for entry in journal {
        match entry {
            Entry::StepCompleted(step) => *times.entry(step.number).or_default() += 1,
            Entry::AttemptFailed(_) => report.attempts_failed += 1,
            _ => {}
        }
    }
    report.steps += times.values().sum::<u64>();
    let wrong = times.values().filter(|n| **n != 1).count() + STEPS.abs_diff(times.len());
    if wrong > 0 {
        report.steps_wrong += wrong as u64;
        find(report, &order.order_id, &format!("has the steps {times:?} in its journal"));
    }
}

fn count_effects(report: &mut Report, order: &Order, ledger: &Ledger) {
    match ledger.charges.get(&order.order_id).map(Vec::as_slice) {
        Some([charge]) if charge.cents == order.cents && charge.card == order.card => {
            report.charged_once += 1
        }
        charges => find(
            report,
            &order.order_id,
            &format!("was charged {} times: {charges:?}", charges.map_or(0, <[_]>::len)),
        ),
    }
    match ledger.mails.get(&order.order_id).map(Vec::as_slice) {
        Some([mail]) if mail.to == order.email => report.mailed_once += 1,
        mails => find(
            report,
            &order.order_id,
            &format!("got {} mails: {mails:?}", mails.map_or(0, <[_]>::len)),
        ),
    }
}

fn find(report: &mut Report, order_id: &str, what: &str) {
    if report.findings.len() < FINDINGS_MAX {
        report.findings.push(format!("{order_id} {what}"));
    }
}
