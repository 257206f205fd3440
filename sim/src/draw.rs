//! Random numbers, each stream of them named.
//!
//! Everything chance decides is drawn from a stream that is made of the seed and a label, so that
//! one more draw here changes nothing there: a fault can be dropped from a plan and the rest stays
//! as it is. The generator is SplitMix64, written out, because a seed must mean the same in every
//! build.

use std::fmt::Display;

use twox_hash::XxHash3_64;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// The stream called `label` of `seed`.
    pub fn of(seed: u64, label: impl Display) -> Self {
        Self(hash(seed, label))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "{low} to {high} is no range");
        low + self.bits() % (high - low).saturating_add(1).max(1)
    }

    /// True this many times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.bits() % 1_000 < per_mille
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.between(0, of.len() as u64 - 1) as usize]
    }
}

/// A number made of a seed and a label.
pub fn hash(seed: u64, label: impl Display) -> u64 {
    let label = label.to_string();
    #[cfg(test)]
    note(&label);
    XxHash3_64::oneshot_with_seed(seed, label.as_bytes())
}

#[cfg(test)]
thread_local! {
    /// The labels drawn from since [`listen`].
    static HEARD: std::cell::RefCell<Option<std::collections::BTreeSet<String>>> =
        const { std::cell::RefCell::new(None) };
}

/// Notes the labels that this thread draws from now on.
#[cfg(test)]
pub(crate) fn listen() {
    HEARD.set(Some(std::collections::BTreeSet::new()));
}

/// The labels drawn from since [`listen`].
#[cfg(test)]
pub(crate) fn heard() -> std::collections::BTreeSet<String> {
    HEARD.take().unwrap_or_default()
}

#[cfg(test)]
fn note(label: &str) {
    HEARD.with_borrow_mut(|heard| {
        if let Some(heard) = heard {
            heard.insert(label.to_owned());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed in a bug report must mean the same for ever.
    #[test]
    fn a_seed_means_the_same_in_every_build() {
        let mut draw = Draw::of(17, "faults");
        assert_eq!(
            [draw.bits(), draw.bits()],
            [11_261_520_999_795_464_908, 18_141_030_011_196_374_015]
        );
    }

    #[test]
    fn streams_of_other_names_are_others() {
        assert_ne!(Draw::of(1, "a").bits(), Draw::of(1, "b").bits());
        assert_ne!(Draw::of(1, "a").bits(), Draw::of(2, "a").bits());
    }

    #[test]
    fn ranges_include_their_ends() {
        let mut draw = Draw::of(1, "range");
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| draw.between(3, 5)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
    }
}
