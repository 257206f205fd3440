//! What goes wrong, and when.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::draw::Draw;
use crate::suite::FaultClass;

const HOUR_MS: u64 = 3_600_000;
/// A wall clock is set back by this much at most.
const BACK_MAX_MS: u64 = 300_000;
/// A forward jump that an engine follows for certain.
const FORWARD_BELIEVED_MS: u64 = 47 * HOUR_MS;

/// A kind of fault. Each has a switch (it is among [`Settings::kinds`] or not) and a count in the
/// report.
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
    /// A worker process stands still, past its leases perhaps, and goes on where it was. Monotonic
    /// time goes on.
    WorkerPaused,
    /// The server process stands still.
    ServerPaused,
    /// A client process stands still.
    ClientPaused,
    /// One link of the server after another is cut.
    RollingPartition,
    /// All links of the server are cut at once.
    AllCut,
    /// A wall clock jumps forward, by seconds or days; a running engine follows up to 48 hours.
    WallForward,
    /// A wall clock jumps back, by minutes at most.
    WallBack,
    /// The next read from the disk fails.
    ReadFailed,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 22] = [
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
        Self::WorkerPaused,
        Self::ServerPaused,
        Self::ClientPaused,
        Self::RollingPartition,
        Self::AllCut,
        Self::WallForward,
        Self::WallBack,
        Self::ReadFailed,
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
            | Self::DiskFull
            | Self::ReadFailed => FaultClass::Killed,
            Self::Partitioned
            | Self::CutOneWay
            | Self::RollingPartition
            | Self::AllCut
            | Self::Held
            | Self::SlowLink
            | Self::SlowDisk
            | Self::WorkerPaused
            | Self::ServerPaused
            | Self::ClientPaused
            | Self::WallForward
            | Self::WallBack => FaultClass::Delayed,
            Self::Deployed => FaultClass::Deployed,
        }
    }
}

impl fmt::Display for FaultKind {
    /// Its name in lower-case words, `worker killed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, letter) in format!("{self:?}").char_indices() {
            let space = if at > 0 && letter.is_ascii_uppercase() { " " } else { "" };
            write!(f, "{space}{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
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
    /// How long it lasts, in milliseconds: until the host is back, the link is whole, the disk is
    /// as before.
    pub span_ms: u64,
    /// How bad it is: the cut of what was not synced, the delay or the jump in milliseconds.
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
        let Self { kind, host, other, span_ms, extent } = self;
        write!(f, "{kind} {host} {other} for {span_ms} ms, extent {extent}")
    }
}

pub(super) fn draw_all(seed: u64, settings: &Settings) -> Vec<TimedFault> {
    if settings.kinds.is_empty() {
        return Vec::new();
    }
    let (fewest, most) = settings.faults;
    let count = Draw::of(seed, "faults").between(fewest, most);
    let mut faults: Vec<TimedFault> = (0..count)
        .map(|n| draw_one(&mut Draw::of(seed, format_args!("fault {n}")), settings))
        .collect();
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

fn draw_one(draw: &mut Draw, settings: &Settings) -> TimedFault {
    let at_ms = draw.between(300, settings.faults_end_ms - 500);
    let kind = *draw.pick(&settings.kinds);
    let worker = format!("worker-{}", draw.between(1, u64::from(settings.workers)));
    let client = format!("client-{}", draw.between(1, u64::from(settings.clients)));
    let peer = if draw.chance(750) { worker.clone() } else { client.clone() };
    let server = "server".to_owned();
    let timeout = settings.session_timeout_ms;
    // From less than a heartbeat to well beyond the session timeout.
    let span_ms = draw.between(10, timeout * 2);
    let extent = draw.bits();
    // Long enough that a worker starts no more steps, too short for its session to end.
    let nearly_lost = extent.is_multiple_of(3);
    let nearly_lost_ms = timeout * (60 + extent / 3 % 26) / 100;
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
        FaultKind::SyncFailed | FaultKind::DiskFull | FaultKind::ReadFailed => {
            (server, String::new(), extent)
        }
        FaultKind::WorkerPaused => (worker, String::new(), 0),
        FaultKind::ServerPaused => (server, String::new(), 0),
        FaultKind::ClientPaused => (client, String::new(), 0),
        FaultKind::RollingPartition | FaultKind::AllCut => (server, String::new(), 0),
        // The engine looks at the server's clock only.
        FaultKind::WallForward | FaultKind::WallBack => {
            let host = if draw.chance(750) { server } else { peer };
            let by_ms = if kind == FaultKind::WallForward {
                draw_forward(draw)
            } else {
                draw.between(1, *draw.clone().pick(&[1_000, 10_000, BACK_MAX_MS]))
            };
            (host, String::new(), by_ms)
        }
    };
    // From less than the grace for a broken connection to several session timeouts.
    let span_ms = match kind {
        FaultKind::WorkerPaused | FaultKind::Held if nearly_lost => nearly_lost_ms,
        FaultKind::WorkerPaused | FaultKind::ServerPaused | FaultKind::ClientPaused => {
            let longest = *draw.pick(&[settings.disconnect_grace_ms.max(20), timeout, 4 * timeout]);
            draw.between(10, longest)
        }
        _ => span_ms,
    };
    TimedFault { at_ms, fault: Fault { kind, host, other, span_ms, extent } }
}

/// Seconds, minutes, hours, nearly as far as the engine follows, or further.
fn draw_forward(draw: &mut Draw) -> u64 {
    match draw.between(0, 9) {
        0..=2 => draw.between(1, 2_000),
        3..=4 => draw.between(2_000, HOUR_MS),
        5..=6 => draw.between(HOUR_MS, 24 * HOUR_MS),
        7..=8 => draw.between(24 * HOUR_MS, FORWARD_BELIEVED_MS),
        _ => draw.between(49 * HOUR_MS, 400 * 24 * HOUR_MS),
    }
}
