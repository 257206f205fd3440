//! The audit: every order is followed through its run, its journal and the provider's books.

use std::collections::BTreeMap;

use stepwell::model::command::Refusal;
use stepwell::model::entry::Entry;
use stepwell::model::id::{Namespace, RunId, StepNo};
use stepwell::model::run::Outcome;
use stepwell::{Client, ClientError};

use super::orders::Order;
use super::provider::Ledger;
use super::report::{Calls, Report};
use super::workflow::{Receipt, parcel_of};
use crate::failure::CommandError;
use crate::reach;

/// Steps of one order.
const STEPS: usize = 4;
/// How many findings are told.
const FINDINGS_MAX: usize = 10;

/// Follows each order. What it finds wrong is in the report, not an error.
pub(crate) async fn audit(
    client: &Client,
    orders: &[Order],
    ledger: &Ledger,
) -> Result<Report, CommandError> {
    let mut report = Report {
        orders: orders.len() as u64,
        calls: Calls::from(ledger),
        ..Report::default()
    };
    report.charges = ledger.charges.values().map(|c| c.len() as u64).sum();
    report.mails = ledger.mails.values().map(|m| m.len() as u64).sum();
    report.cents = ledger.charges.values().flatten().map(|c| c.cents).sum();
    for order in orders {
        let id = RunId::of_name(Namespace::default(), &order.order_id);
        match client.outcome(id, false).await {
            Ok(outcome) => count_outcome(&mut report, order, &outcome),
            Err(ClientError::Refused(Refusal::NoSuchRun(_))) => {
                report.lost += 1;
                find(&mut report, &order.order_id, "has no run");
                continue;
            }
            Err(error) => return Err(reach::asked(&error)),
        }
        let journal = client.journal(id).await.map_err(|e| reach::asked(&e))?;
        count_journal(&mut report, order, &journal);
        count_effects(&mut report, order, ledger);
    }
    Ok(report)
}

fn count_outcome(report: &mut Report, order: &Order, outcome: &Outcome) {
    match outcome {
        Outcome::OutcomeCompleted(done) => {
            report.completed += 1;
            match done.output.to::<Receipt>() {
                Ok(receipt) if is_right(order, &receipt) => report.receipts += 1,
                Ok(receipt) => find(
                    report,
                    &order.order_id,
                    &format!("has a wrong receipt: {receipt:?}"),
                ),
                Err(error) => find(
                    report,
                    &order.order_id,
                    &format!("has a receipt that does not decode: {error}"),
                ),
            }
        }
        Outcome::OutcomeDead(dead) => {
            report.dead_letters += 1;
            find(
                report,
                &order.order_id,
                &format!("is a dead letter: {}", dead.failure),
            );
        }
        Outcome::OutcomeCancelled(_) => {
            report.unfinished += 1;
            find(report, &order.order_id, "is cancelled");
        }
        Outcome::OutcomePending(pending) => {
            report.unfinished += 1;
            find(
                report,
                &order.order_id,
                &format!("has not ended: it is {}", pending.state),
            );
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
    let mut times: BTreeMap<StepNo, u64> = BTreeMap::new();
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
        find(
            report,
            &order.order_id,
            &format!("has the steps {times:?} in its journal"),
        );
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
            &format!(
                "was charged {} times: {charges:?}",
                charges.map_or(0, <[_]>::len)
            ),
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
