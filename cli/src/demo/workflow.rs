//! One order, from the shelf to the mail.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Failure, Workflow};

use super::orders::Order;
use super::provider::{Charge, Mail};
use super::shop::{CALL_HARD, CALL_SOFT, Shop, retry_policy};

/// The queue of the orders.
pub(crate) const ORDERS: &str = "orders";
/// An order, from the shelf to the mail.
pub(crate) const CHECKOUT: Workflow<Order, Receipt> = Workflow::new("checkout").queue(ORDERS);

/// Between the charge and the parcel.
const PACKING: Duration = Duration::from_secs(2);

/// What a finished order has to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// Which order.
    pub(crate) order_id: String,
    /// What was charged.
    pub(crate) cents: u64,
    /// The provider's confirmation of the charge.
    pub(crate) charge: String,
    /// The parcel.
    pub(crate) parcel: String,
    /// The provider's confirmation of the mail.
    pub(crate) mail: String,
}

/// The parcel's number, made of the order's.
pub(crate) fn parcel_of(order_id: &str) -> String {
    format!("parcel-{order_id}")
}

/// Reserves, charges, packs, ships, writes a mail.
pub(crate) async fn checkout(shop: Shop, ctx: Ctx, order: Order) -> Result<Receipt, Failure> {
    let Order { order_id, email, sku, quantity, cents, card, .. } = order;
    ctx.step("reserve", |_| async { Ok::<_, Failure>(format!("{quantity} x {sku}")) }).await?;

    let ask = Charge { order_id: order_id.clone(), card, cents };
    let charge = ctx
        .step("charge", |s| shop.call("/charges", &ask, s.key()))
        .retry(retry_policy())
        .soft_timeout(CALL_SOFT)
        .timeout(CALL_HARD)
        .await?;

    ctx.sleep(PACKING).await?;

    let parcel = ctx.step("ship", |_| async { Ok::<_, Failure>(parcel_of(&order_id)) }).await?;

    let ask =
        Mail { order_id: order_id.clone(), to: email, subject: format!("{parcel} is on its way") };
    let mail = ctx
        .step("mail", |s| shop.call("/mails", &ask, s.key()))
        .retry(retry_policy())
        .soft_timeout(CALL_SOFT)
        .timeout(CALL_HARD)
        .await?;

    Ok(Receipt { order_id, cents, charge: charge.confirmation, parcel, mail: mail.confirmation })
}
