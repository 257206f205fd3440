//! The sample: a checkout as a shop would write it, and its suite.
//!
//! The workflow knows nothing of the simulation: what it needs of the outside comes in as a trait,
//! which production implements with its providers' clients and the suite with the simulated world.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Failure, Retry, Workflow};

use crate::draw::Draw;
use crate::ledger::Effect;
use crate::outside::{CallError, Outside};
use crate::suite::{Seeds, Sim, Suite};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    cents: u64,
    in_stock: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct Receipt {
    reservation: u64,
    charge: u64,
    shipment: u64,
}

const CHECKOUT: Workflow<Order, Receipt> = Workflow::new("checkout").queue("orders");

/// The outside, as the shop sees it: in production the clients of its providers.
trait Shop: Clone + Send + Sync + 'static {
    fn reserve(self, key: String, order: u64) -> impl Future<Output = Answer> + Send;
    fn charge(self, key: String, order: Order) -> impl Future<Output = Answer> + Send;
    fn ship(self, key: String, order: u64) -> impl Future<Output = Answer> + Send;
    fn release(self, key: String, reservation: u64) -> impl Future<Output = Answer> + Send;
}

type Answer = Result<u64, CallError>;

async fn checkout<S: Shop>(ctx: Ctx, order: Order, shop: S) -> Result<Receipt, Failure> {
    let patience = Retry::exponential(Duration::from_millis(200)).retries(8);
    let reservation =
        ctx.step("reserve", |s| shop.clone().reserve(s.key(), order.id)).retry(patience).await?;
    if !order.in_stock {
        ctx.step("release", |s| shop.clone().release(s.key(), reservation)).retry(patience).await?;
        return Err(Failure::terminal("it is sold out").class("sold out"));
    }
    // The charge, and a moment for second thoughts, whichever takes longer.
    let (charge, slept) = stepwell::join!(
        ctx.step("charge", |s| shop.clone().charge(s.key(), order.clone()))
            .retry(patience)
            .soft_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(4)),
        ctx.sleep(Duration::from_millis(700))
    );
    slept?;
    let charge = charge?;
    let shipment =
        ctx.step("ship", |s| shop.clone().ship(s.key(), order.id)).retry(patience).await?;
    Ok(Receipt { reservation, charge, shipment })
}

/// The shop in the simulation.
#[derive(Clone)]
struct Simulated(Outside);

impl Shop for Simulated {
    async fn reserve(self, key: String, order: u64) -> Answer {
        self.0.call("reserve", key, order).await
    }

    async fn charge(self, key: String, order: Order) -> Answer {
        self.0.call("charge", key, order).await
    }

    async fn ship(self, key: String, order: u64) -> Answer {
        self.0.call("ship", key, order).await
    }

    async fn release(self, key: String, reservation: u64) -> Answer {
        self.0.call("release", key, reservation).await
    }
}

pub(super) fn suite() -> Suite {
    Sim::suite("checkout")
        .workers(3, |w| {
            let shop = Simulated(w.world());
            w.register(CHECKOUT, move |ctx, order| checkout(ctx, order, shop.clone()))
        })
        .workload(|w| {
            w.start_many(CHECKOUT, 20, |draw: &mut Draw| Order {
                id: draw.bits(),
                cents: draw.between(100, 99_999),
                in_stock: !draw.chance(100),
            });
        })
        .effect("charge", Effect::once_per_key().once_per_request())
        .effect("ship", Effect::once_per_key().once_per_request())
        .always("nothing is shipped that was not paid", |h| {
            let paid: std::collections::BTreeSet<u64> = h
                .effects("charge")
                .filter_map(|charge| charge.request::<Order>())
                .map(|order| order.id)
                .collect();
            h.effects("ship")
                .filter_map(|shipment| shipment.request::<u64>())
                .all(|id| paid.contains(&id))
        })
        .always("what is sold out is released", |h| {
            let sold_out = h
                .runs()
                .filter(|run| run.failure().is_some_and(|failure| failure.class == "sold out"));
            sold_out.into_iter().all(|run| run.completed_steps("release") == 1)
        })
        .sometimes("a completed step was replayed", |h| h.replays() > 0)
        .sometimes("a charge was tried again and found done", |h| {
            h.effects("charge").any(|charge| charge.absorbed() > 0)
        })
        .sometimes("an order was sold out", |h| {
            h.runs().any(|run| run.failure().is_some_and(|f| f.class == "sold out"))
        })
        .seeds(Seeds::fresh_only(100))
}
