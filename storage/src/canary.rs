//! Canaries: bugs planted on purpose, to see that the simulation notices them.
//!
//! They are compiled in only with `--cfg canary`, and of those at most one is awake, selected while
//! the program runs. In any other build `canary!` is the word `false`, so that nothing of them is
//! left.
//!
//! ```text
//! if canary!("no fence") || token == current { … }
//! ```
//!
//! The selection is for the whole process and must not change while a seed is played: what is
//! planted in a function of its arguments leaves it one.

/// Whether the canary of this name is awake. A name that is not listed does not compile.
#[cfg(not(canary))]
macro_rules! canary {
    ($name:literal) => {
        false
    };
}

/// Whether the canary of this name is awake. A name that is not listed does not compile.
#[cfg(canary)]
macro_rules! canary {
    ($name:literal) => {{
        const NUMBER: u64 = $crate::canary::listed($crate::canary::ALL, $name);
        $crate::canary::is_awake(NUMBER)
    }};
}

pub(crate) use canary;

#[cfg(canary)]
pub use planted::{ALL, Canary, is_awake, listed, select};

#[cfg(canary)]
mod planted {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A planted bug.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Canary {
        /// What is wrong.
        pub name: &'static str,
        /// The rule that it breaks.
        pub breaks: &'static str,
    }

    /// The storage's canaries.
    pub const ALL: &[Canary] = &[
        Canary {
            name: "acknowledged before the sync",
            breaks: "a receipt covers what was synced, not what was submitted meanwhile",
        },
        Canary {
            name: "one commit early",
            breaks: "R1: an action is released only against a receipt that covers its write",
        },
        Canary {
            name: "reads miss what is in flight",
            breaks: "a submitted batch is seen at once, also while another one is synced",
        },
    ];

    static AWAKE: AtomicU64 = AtomicU64::new(0);

    /// Wakes the canary of this name, and no other; `None` lets all of them sleep.
    pub fn select(name: Option<&str>) {
        AWAKE.store(name.map_or(0, number), Ordering::Relaxed);
    }

    /// Whether it is the one that is awake.
    pub fn is_awake(number: u64) -> bool {
        AWAKE.load(Ordering::Relaxed) == number
    }

    /// The number of a listed name. Panics, when compiled, at one that is not listed.
    pub const fn listed(all: &[Canary], name: &str) -> u64 {
        let mut at = 0;
        while at < all.len() {
            if number(all[at].name) == number(name) {
                return number(name);
            }
            at += 1;
        }
        panic!("there is no canary of this name in the list")
    }

    /// FNV-1a.
    const fn number(name: &str) -> u64 {
        let (bytes, mut at, mut hash) = (name.as_bytes(), 0, 0xcbf2_9ce4_8422_2325_u64);
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            at += 1;
        }
        hash
    }
}
