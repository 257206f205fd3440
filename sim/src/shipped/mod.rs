//! The suites that come with Stepwell: the engine's own, one for each class of faults, and a
//! sample.

mod checkout;
mod patient;

use crate::suite::{FaultClass, Faults, Sim, Suite};

/// A suite that comes with Stepwell.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// Its name.
    pub name: &'static str,
    /// What it is about, in a line.
    pub about: &'static str,
    make: fn() -> Suite,
}

impl Shipped {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self {
            name: "engine",
            about: "workflows that carry their own proof, under all faults",
            make: Sim::engine,
        },
        Self {
            name: "retried",
            about: "the same; only steps fail, hang, panic and lose their replies",
            make: || of_class("retried", FaultClass::Retried),
        },
        Self {
            name: "duplicated",
            about: "the same; only messages come twice and late",
            make: || of_class("duplicated", FaultClass::Duplicated),
        },
        Self {
            name: "delayed",
            about: "the same; only links, disks and processes stand still",
            make: || of_class("delayed", FaultClass::Delayed),
        },
        Self {
            name: "killed",
            about: "the same; only processes die and the power goes",
            make: || of_class("killed", FaultClass::Killed),
        },
        Self {
            name: "deployed",
            about: "the same; only workers are swapped to other builds",
            make: || of_class("deployed", FaultClass::Deployed),
        },
        Self {
            name: "checkout",
            about: "a sample: orders are reserved, charged, shipped, and nobody pays twice",
            make: checkout::suite,
        },
        Self {
            name: "patient",
            about: "sleeps of days and months, retries over hours, and time that is skipped",
            make: patient::suite,
        },
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shipped| shipped.name == name)
    }

    /// The suite, to be run.
    pub fn suite(&self) -> Suite {
        (self.make)()
    }
}

fn of_class(name: &str, class: FaultClass) -> Suite {
    Sim::engine().called(name).faults(Faults::none().with_class(class))
}
