//! Random bits of one life of a host.

use std::sync::{Mutex, PoisonError};

use stepwell::runtime::env::Entropy;

use super::Host;
use crate::draw::Draw;

/// Drawn from (seed, host, life).
pub(super) struct HostEntropy(Mutex<Draw>);

impl HostEntropy {
    pub(super) fn new(host: &Host) -> Self {
        let label = format_args!("entropy {} {}", host.name, host.life);
        Self(Mutex::new(Draw::of(host.world.plan.seed, label)))
    }
}

impl Entropy for HostEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bits()
    }
}
