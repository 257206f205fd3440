//! Who of the orders plays which part: one comes with an address that is none, one is urgent, the
//! others are ordinary.

use super::orders::Order;

/// The orders by their parts. All of them are reconciled alike.
#[derive(Debug, Clone)]
pub(crate) struct Roles {
    /// As they come in, one after the other; the urgent one is not among them.
    pub(crate) coming: Vec<Order>,
    /// The one that comes in with an address that is none, as it should have been.
    pub(crate) mistyped: Order,
    /// The one that overtakes the others; none if there is but one order.
    pub(crate) urgent: Option<Order>,
    /// When so many orders have come in, the urgent one does.
    pub(crate) urgent_after: u64,
}

impl Roles {
    /// Gives out the parts. There is at least one order.
    pub(crate) fn of(orders: &[Order]) -> Self {
        let (mistyped, urgent) = (orders.len() / 4, orders.len() * 5 / 8);
        let mut coming = orders.to_vec();
        coming[mistyped].email = mistype(&orders[mistyped].email);
        let urgent = (urgent != mistyped).then(|| (urgent, coming.remove(urgent)));
        Self {
            coming,
            mistyped: orders[mistyped].clone(),
            urgent_after: urgent.as_ref().map_or(0, |(place, _)| *place as u64),
            urgent: urgent.map(|(_, order)| order),
        }
    }
}

/// As somebody types it who has never written a mail.
fn mistype(email: &str) -> String {
    email.replace('@', " at ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::orders;

    #[test]
    fn every_order_has_one_part_however_few_there_are() {
        for count in 1..40 {
            let orders = orders::read(None, Some(count)).unwrap();
            let roles = Roles::of(&orders);
            assert_eq!(roles.urgent.is_some(), count > 1);
            let mut ids: Vec<String> =
                roles.coming.iter().chain(&roles.urgent).map(|o| o.order_id.clone()).collect();
            ids.sort();
            let expected: Vec<String> = orders.iter().map(|o| o.order_id.clone()).collect();
            assert_eq!(ids, expected);
            let broken = roles.coming.iter().filter(|o| !orders::is_address(&o.email));
            let broken: Vec<&str> = broken.map(|o| o.order_id.as_str()).collect();
            assert_eq!(broken, [roles.mistyped.order_id.as_str()]);
            assert_eq!(orders[count / 4], roles.mistyped);
        }
    }
}
