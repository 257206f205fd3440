//! Which faults a suite has.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::plan::{FaultKind, Settings};

/// What happens to background jobs in production, by the five classes that their owners speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FaultClass {
    /// Steps fail, hang, panic and lose their replies, and are tried again.
    Retried,
    /// Messages arrive twice, late and over other connections.
    Duplicated,
    /// Links, disks and processes stand still.
    Delayed,
    /// Workers, clients and the server die, and the power goes.
    Killed,
    /// Another version of the code takes over under running work.
    Deployed,
}

impl FaultClass {
    /// All classes.
    pub const ALL: [Self; 5] =
        [Self::Retried, Self::Duplicated, Self::Delayed, Self::Killed, Self::Deployed];
}

/// Which faults a suite has. What each seed has of them, it draws.
///
/// ```
/// use stepwell_sim::{FaultClass, Faults};
/// use stepwell_sim::plan::FaultKind;
/// let all = Faults::swarm();
/// let kills = Faults::none().with_class(FaultClass::Killed);
/// let mild = Faults::swarm().without(FaultKind::PowerLost);
/// # let _ = (all, kills, mild);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The kinds that may occur.
    kinds: BTreeSet<FaultKind>,
    retried: bool,
    duplicated: bool,
    /// Each seed has only some of the kinds.
    swarm: bool,
}

impl Faults {
    /// All kinds; each seed draws a subset of them and its rates. Leaving out finds what everything
    /// at once would hide.
    pub fn swarm() -> Self {
        Self {
            kinds: FaultKind::ALL.into_iter().collect(),
            retried: true,
            duplicated: true,
            swarm: true,
        }
    }

    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self { kinds: BTreeSet::new(), retried: false, duplicated: false, swarm: false }
    }

    /// With this kind, in every seed.
    #[must_use]
    pub fn with(mut self, kind: FaultKind) -> Self {
        self.kinds.insert(kind);
        self
    }

    /// Without this kind.
    #[must_use]
    pub fn without(mut self, kind: FaultKind) -> Self {
        self.kinds.remove(&kind);
        self
    }

    /// With all that belongs to a class.
    #[must_use]
    pub fn with_class(mut self, class: FaultClass) -> Self {
        match class {
            FaultClass::Retried => self.retried = true,
            FaultClass::Duplicated => self.duplicated = true,
            _ => {}
        }
        let of_class = FaultKind::ALL.into_iter();
        self.kinds.extend(of_class.filter(|kind| kind.class() == class));
        self
    }

    /// Without all that belongs to a class.
    #[must_use]
    pub fn without_class(mut self, class: FaultClass) -> Self {
        match class {
            FaultClass::Retried => self.retried = false,
            FaultClass::Duplicated => self.duplicated = false,
            _ => {}
        }
        self.kinds.retain(|kind| kind.class() != class);
        self
    }

    /// Leaves of a seed's settings what this allows.
    pub(crate) fn limit(&self, settings: &mut Settings) {
        if self.swarm {
            settings.kinds.retain(|kind| self.kinds.contains(kind));
        } else {
            settings.kinds = self.kinds.iter().copied().collect();
        }
        let wrong_clocks = [FaultKind::WallForward, FaultKind::WallBack];
        if !wrong_clocks.iter().any(|kind| self.kinds.contains(kind)) {
            settings.clocks.clear();
        }
        if !self.retried {
            settings.failures_per_mille = 0;
            settings.lost_replies_per_mille = 0;
            settings.hangs_per_mille = 0;
            settings.panics_per_mille = 0;
        }
        if !self.duplicated {
            settings.duplicates_per_mille = 0;
            settings.very_late_copies_per_mille = 0;
            settings.cut_replies_per_mille = 0;
            settings.late_copies_per_mille = 0;
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::swarm()
    }
}
