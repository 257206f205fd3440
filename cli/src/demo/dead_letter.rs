//! The order that died: found in the list of dead letters, repaired, sent back to work, and
//! reconciled.

use std::time::Duration;

use stepwell::model::dead::{AuditAction, AuditEntry, DeadFilter, DeadLetter};
use stepwell::model::entry::Entry;
use stepwell::model::id::{Namespace, RunId};
use stepwell::model::payload::Payload;

use super::orders::Order;
use super::provider::Ledger;
use super::scene_context::SceneContext;
use super::workflow::{CHECKOUT, ORDERS};
use crate::failure::CommandError;

/// Who looks after dead letters.
pub(crate) const SUPPORT: &str = "support";
/// How often the list is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Rows of the list that are looked at, and audit entries of one run.
const ROWS: u32 = 100;

/// What became of the order.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeadLetterFacts {
    /// Which order.
    pub(crate) order_id: String,
    /// As the list had it; none if it never stood there.
    pub(crate) letter: Option<DeadLetter>,
    /// What was done with it, as the engine recorded it, the oldest first.
    pub(crate) entries: Vec<AuditEntry>,
    /// Whether the journal has the death, the edit and the redrive in this order, and then the
    /// completion.
    pub(crate) completed: bool,
    /// Charges the provider made.
    pub(crate) charges: u64,
    /// Mails the provider sent.
    pub(crate) mails: u64,
}

/// Waits until the order is a dead letter, gives it the right input and redrives it. Returns what
/// the list had of it.
pub(crate) async fn mend(context: SceneContext, order: Order) -> Result<DeadLetter, CommandError> {
    let letter = found(&context, &order).await;
    let input = Payload::of(&order)
        .map_err(|e| CommandError::fault("an order does not become a payload").caused_by(&e))?;
    // Request ids of their own: however often they arrive, they take effect once.
    let (edit, redrive) = (context.client.new_request_id(), context.client.new_request_id());
    let id = letter.id;
    context
        .insist(|client| {
            let (client, input) = (client.principal(SUPPORT), input.clone());
            async move { client.edit_input_as(edit, id, input).await }
        })
        .await?;
    context
        .insist(|client| {
            let client = client.principal(SUPPORT);
            async move { client.redrive_as(redrive, id).await }
        })
        .await?;
    context.tell(format!(
        "{} is a dead letter: no mail goes to that address; edited and redriven",
        order.order_id
    ));
    Ok(letter)
}

async fn found(context: &SceneContext, order: &Order) -> DeadLetter {
    let filter = DeadFilter::default().queue(ORDERS).workflow(CHECKOUT.name());
    loop {
        // A server that is dead just now has no list.
        if let Ok((letters, _)) = context.client.dead_letters(&filter, None, ROWS).await {
            let name = Some(order.order_id.as_str());
            if let Some(letter) = letters.into_iter().find(|l| l.name.as_deref() == name) {
                return letter;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks at what is recorded of it now.
pub(crate) async fn reconcile(
    context: &SceneContext,
    order: &Order,
    letter: Option<DeadLetter>,
    ledger: &Ledger,
) -> Result<DeadLetterFacts, CommandError> {
    let id = RunId::from_name(Namespace::default(), &order.order_id);
    let (mut entries, _) =
        context.insist(|client| async move { client.audit(Some(id), None, ROWS).await }).await?;
    entries.reverse();
    let run = context.run(id).await?;
    let count = |effects: Option<usize>| effects.unwrap_or(0) as u64;
    Ok(DeadLetterFacts {
        order_id: order.order_id.clone(),
        letter,
        entries,
        completed: run.is_some_and(|(_, journal)| went_the_way(&journal, order)),
        charges: count(ledger.charges.get(&order.order_id).map(Vec::len)),
        mails: count(ledger.mails.get(&order.order_id).map(Vec::len)),
    })
}

/// Whether the run died, got the right input from support, was redriven by support, and completed;
/// each once.
fn went_the_way(journal: &[Entry], order: &Order) -> bool {
    let way: Vec<&Entry> = journal.iter().filter(|e| e.ends() || e.act().is_some()).collect();
    match way[..] {
        [
            Entry::Died(_),
            Entry::InputEdited(edited),
            Entry::Redriven(redriven),
            Entry::Completed(_),
        ] => {
            edited.principal == SUPPORT
                && redriven.principal == SUPPORT
                && edited.input.to::<Order>().is_ok_and(|input| input == *order)
        }
        _ => false,
    }
}

impl DeadLetterFacts {
    /// Whether it was in the list, and the audit entries about it are there: one edit, then one
    /// redrive, by support.
    pub(crate) fn is_recorded(&self) -> bool {
        let kinds: Vec<AuditAction> = self.entries.iter().map(|entry| entry.action).collect();
        self.letter.is_some()
            && kinds == [AuditAction::Edit, AuditAction::Redrive]
            && self.entries.iter().all(|entry| entry.principal == SUPPORT)
    }

    /// Whether it ended as if nothing had been wrong, charged and mailed once.
    pub(crate) fn is_repaired(&self) -> bool {
        self.completed && self.charges == 1 && self.mails == 1
    }
}
