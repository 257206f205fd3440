//! **Who is heard is not given up.**
//!
//! Source: rule R6 of the design, liveness and not age decides, and P2 and P3 of the sessions: any frame counts as heard, and
//! only a silence of the time-out, or a broken connection, ends a session. A run's worker is taken for dead only then.

use std::collections::BTreeMap;

use stepwell::model::id::Incarnation;
use stepwell::wire::message::Closing;

use super::Bench;

const NAME: &str = "who is heard is not given up";
/// How the engine begins when it closes a connection for its silence.
const SILENT: &str = "nothing was heard";

/// What arrived at the server, by process.
#[derive(Default)]
pub(super) struct Lines {
    /// After this time without a frame, or a little more, the engine may give a process up.
    limit_ms: u64,
    lines: BTreeMap<Incarnation, Line>,
}

struct Line {
    heard_ms: u64,
    /// It was silent for the limit once, or its connection was broken.
    broken: bool,
}

impl Lines {
    /// A frame has arrived. The limit is a little less than the time-out: what arrives is looked at later.
    pub(super) fn heard(&mut self, now_ms: u64, who: Incarnation, timeout_ms: u64) {
        self.limit_ms = timeout_ms * 9 / 10;
        let limit_ms = self.limit_ms;
        let line = self.lines.entry(who).or_insert(Line {
            heard_ms: now_ms,
            broken: false,
        });
        line.broken |= now_ms.saturating_sub(line.heard_ms) >= limit_ms;
        line.heard_ms = now_ms;
    }

    /// Its connection is gone at the server's end.
    pub(super) fn parted(&mut self, who: Incarnation) {
        if let Some(line) = self.lines.get_mut(&who) {
            line.broken = true;
        }
    }

    /// Whether it was well heard all its life.
    fn is_sound(&self, now_ms: u64, who: Incarnation) -> bool {
        self.lines.get(&who).is_some_and(|line| {
            !line.broken && now_ms.saturating_sub(line.heard_ms) < self.limit_ms
        })
    }

    /// The engine closes a connection.
    pub(super) fn closes(&self, who: Incarnation, closing: &Closing, bench: &mut Bench<'_>) {
        if closing.reason.starts_with(SILENT) && self.is_sound(bench.now_ms, who) {
            bench.charge(
                NAME,
                format!("{who} is told: {}, and was never silent", closing.reason),
            );
        }
    }

    /// The engine takes a process for dead.
    pub(super) fn buries(&self, who: Incarnation, run: &str, bench: &mut Bench<'_>) {
        if self.is_sound(bench.now_ms, who) {
            bench.charge(
                NAME,
                format!("{run} is taken from {who} as from a dead one, which was never silent"),
            );
        }
    }
}
