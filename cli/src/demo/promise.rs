//! A promise of the demo, and whether it was kept.

use crate::quantity::grouped;

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Exactly(u64),
    AtMost(u64),
}

/// Something the demo promises, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promise {
    what: &'static str,
    promised: Bound,
    /// Nothing was there to be measured: that keeps no promise.
    seen: Option<u64>,
}

impl Promise {
    /// So many, no more and no less.
    pub(crate) fn exactly(what: &'static str, promised: u64, seen: u64) -> Self {
        Self { what, promised: Bound::Exactly(promised), seen: Some(seen) }
    }

    /// So many or fewer.
    pub(crate) fn at_most(what: &'static str, promised: u64, seen: Option<u64>) -> Self {
        Self { what, promised: Bound::AtMost(promised), seen }
    }

    /// Whether it was kept.
    pub(crate) fn kept(&self) -> bool {
        self.seen.is_some_and(|seen| match self.promised {
            Bound::Exactly(promised) => seen == promised,
            Bound::AtMost(promised) => seen <= promised,
        })
    }

    /// A row of a table: what, promised, seen, verdict.
    pub(crate) fn row(&self) -> Vec<String> {
        let verdict = if self.kept() { "kept" } else { "BROKEN" };
        vec![self.what.to_owned(), self.promised(), self.seen(), verdict.to_owned()]
    }

    /// A line that says how it was broken, if it was.
    pub(crate) fn broken(&self) -> Option<String> {
        let (promised, seen) = (self.promised(), self.seen());
        let line = format!("{}: {promised} promised, {seen} seen", self.what);
        (!self.kept()).then_some(line)
    }

    fn promised(&self) -> String {
        match self.promised {
            Bound::Exactly(number) => grouped(number),
            Bound::AtMost(number) => format!("≤ {}", grouped(number)),
        }
    }

    fn seen(&self) -> String {
        self.seen.map_or_else(|| "none".to_owned(), grouped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_within_its_bound_only() {
        assert!(Promise::exactly("orders", 2, 2).kept());
        assert!(Promise::at_most("ahead", 2, Some(1)).kept());
        let broken = [
            Promise::exactly("orders", 2, 3),
            Promise::at_most("ahead", 2, Some(3)),
            Promise::at_most("ahead", 2, None),
        ];
        let lines: Vec<_> = broken.iter().filter_map(Promise::broken).collect();
        assert_eq!(
            lines,
            [
                "orders: 2 promised, 3 seen",
                "ahead: ≤ 2 promised, 3 seen",
                "ahead: ≤ 2 promised, none seen"
            ]
        );
    }
}
