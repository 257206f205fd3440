//! What goes wrong, and when.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::settings::{CLIENTS, Settings, WORKERS};
use crate::draw::Draw;
use crate::suite::FaultClass;

/// A kind of fault. Each has a switch (it is among [`Settings::kinds`] or not) and a count in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FaultKind {
    /// A worker process dies; its peers see the connection end.
    WorkerKilled,
    /// A worker process dies and nobody is told.
    WorkerKilledSilently,
    /// A worker is asked to leave in peace.
    WorkerDrained,
    /// A client process dies.
    ClientKilled,
    /// The server process dies.
    ServerKilled,
    /// The server's machine dies, with any legal part of what was not synced.
    PowerLost,
    /// Nothing passes between two hosts, either way.
    Partitioned,
    /// Nothing passes from one host to another.
    CutOneWay,
    /// What is sent between two hosts arrives later, all of it.
    Held,
    /// Messages between two hosts take long.
    SlowLink,
    /// Syncs take long.
    SlowDisk,
    /// A sync fails, and whether it has taken effect is unknown.
    SyncFailed,
    /// The disk has no room.
    DiskFull,
    /// All workers are swapped to the next version of the code.
    Deployed,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::WorkerKilled,
        Self::WorkerKilledSilently,
        Self::WorkerDrained,
        Self::ClientKilled,
        Self::ServerKilled,
        Self::PowerLost,
        Self::Partitioned,
        Self::CutOneWay,
        Self::Held,
        Self::SlowLink,
        Self::SlowDisk,
        Self::SyncFailed,
        Self::DiskFull,
        Self::Deployed,
    ];

    /// The class of what happens in production that it belongs to.
    pub fn class(self) -> FaultClass {
        match self {
            Self::WorkerKilled
            | Self::WorkerKilledSilently
            | Self::WorkerDrained
            | Self::ClientKilled
            | Self::ServerKilled
            | Self::PowerLost
            | Self::SyncFailed
            | Self::DiskFull => FaultClass::Killed,
            Self::Partitioned | Self::CutOneWay | Self::Held | Self::SlowLink | Self::SlowDisk => {
                FaultClass::Delayed
            }
            Self::Deployed => FaultClass::Deployed,
        }
    }
}

/// What goes wrong with whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// With which host.
    pub host: String,
    /// And which other, where it is about a link.
    pub other: String,
    /// How long it lasts, in milliseconds: until the host is back, the link is whole, the disk is as before.
    pub span_ms: u64,
    /// How bad it is: the cut of what was not synced, the delay in milliseconds.
    pub extent: u64,
}

/// A fault and when it strikes, in milliseconds from the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedFault {
    /// When.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            host,
            other,
            span_ms,
            extent,
        } = self;
        write!(
            f,
            "{kind:?} {host} {other} for {span_ms} ms, extent {extent}"
        )
    }
}

pub(super) fn draw_all(seed: u64, settings: &Settings) -> Vec<TimedFault> {
    if settings.kinds.is_empty() {
        return Vec::new();
    }
    let count = Draw::of(seed, "faults").between(2, 14);
    let mut faults: Vec<TimedFault> = (0..count)
        .map(|n| draw_one(&mut Draw::of(seed, format_args!("fault {n}")), settings))
        .collect();
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

fn draw_one(draw: &mut Draw, settings: &Settings) -> TimedFault {
    let at_ms = draw.between(300, settings.faults_end_ms - 500);
    let kind = *draw.pick(&settings.kinds);
    let worker = format!("worker-{}", draw.between(1, u64::from(WORKERS)));
    let client = format!("client-{}", draw.between(1, u64::from(CLIENTS)));
    let peer = if draw.chance(750) {
        worker.clone()
    } else {
        client.clone()
    };
    let server = "server".to_owned();
    let timeout = settings.session_timeout_ms;
    // From less than a heartbeat to well beyond the session time-out.
    let span_ms = draw.between(10, timeout * 2);
    let extent = draw.bits();
    let (host, other, extent) = match kind {
        FaultKind::WorkerKilled | FaultKind::WorkerKilledSilently | FaultKind::WorkerDrained => {
            (worker, String::new(), 0)
        }
        FaultKind::ClientKilled => (client, String::new(), 0),
        FaultKind::ServerKilled | FaultKind::PowerLost => (server, String::new(), extent),
        FaultKind::Partitioned | FaultKind::Held => (server, peer, 0),
        FaultKind::CutOneWay if extent.is_multiple_of(2) => (server, peer, 0),
        FaultKind::CutOneWay => (peer, server, 0),
        FaultKind::SlowLink => (server, peer, 20 + extent % (timeout / 2)),
        FaultKind::SlowDisk => (server, String::new(), 20 + extent % (timeout * 2)),
        FaultKind::Deployed => (String::new(), String::new(), 0),
        FaultKind::SyncFailed | FaultKind::DiskFull => (server, String::new(), extent),
    };
    TimedFault {
        at_ms,
        fault: Fault {
            kind,
            host,
            other,
            span_ms,
            extent,
        },
    }
}
