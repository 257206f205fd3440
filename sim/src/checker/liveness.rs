//! **Who is heard is not given up, and who is silent is.**
//!
//! Source: rule R6 of the design, liveness and not age decides, and P2 and P3 of the sessions: any
//! frame counts as heard, and only a silence of the timeout, or a broken connection, ends a
//! session. A run's worker is taken for dead only then. After such a silence the session does end,
//! whatever the others do.

use std::collections::BTreeMap;

use stepwell::model::id::ProcessInstance;
use stepwell::wire::message::Closing;

use super::Findings;
use crate::plan::{FaultKind, Plan};

const NAME: &str = "who is heard is not given up";
const NOTICED: &str = "who is silent is given up";
/// How the engine begins when it closes a connection for its silence.
const SILENT: &str = "nothing was heard";

/// What arrived at the server, by process.
#[derive(Default)]
pub(super) struct Liveness {
    /// After this time without a frame, or a little more, the engine may give a process up.
    limit_ms: u64,
    heard: BTreeMap<ProcessInstance, Heard>,
}

struct Heard {
    heard_ms: u64,
    /// It was silent for the limit once, or its connection was broken.
    broken: bool,
    /// The server has a connection with it.
    open: bool,
}

/// After this silence a session has ended, and its end has been told. The engine looks every half a
/// second at the latest, and tells once what it has written is durable; on a slow disk it may even
/// wait for that before it looks, and while it stands still it does not look at all.
fn patience_ms(plan: &Plan) -> u64 {
    let settings = &plan.settings;
    let strikes = |kind| plan.faults.iter().any(|timed| timed.fault.kind == kind);
    let slow = strikes(FaultKind::SlowDisk) || strikes(FaultKind::ServerPaused);
    let timeout_ms = settings.session_timeout_ms;
    let slow_ms = if slow || !plan.script.is_empty() { 10 * timeout_ms } else { timeout_ms / 10 };
    timeout_ms + (settings.heartbeat_ms / 4).clamp(50, 500) + slow_ms + 5 * settings.sync_ms + 100
}

impl Liveness {
    /// A frame has arrived. The limit is a little less than the timeout: what arrives is looked at
    /// later.
    pub(super) fn heard(&mut self, who: ProcessInstance, plan: &Plan, findings: &mut Findings<'_>) {
        self.limit_ms = plan.settings.session_timeout_ms * 9 / 10;
        let (now_ms, limit_ms, patience_ms) = (findings.now_ms, self.limit_ms, patience_ms(plan));
        for (other, heard) in self.heard.iter_mut().filter(|(_, heard)| heard.open) {
            let silent_ms = now_ms.saturating_sub(heard.heard_ms);
            if silent_ms > patience_ms && *other != who {
                findings.report(
                    NOTICED,
                    format!("{other} has been silent for {silent_ms} ms, and its session goes on"),
                );
            }
        }
        let heard =
            self.heard.entry(who).or_insert(Heard { heard_ms: now_ms, broken: false, open: true });
        heard.open = true;
        heard.broken |= now_ms.saturating_sub(heard.heard_ms) >= limit_ms;
        heard.heard_ms = now_ms;
    }

    /// Its connection is gone at the server's end.
    pub(super) fn parted(&mut self, who: ProcessInstance) {
        if let Some(heard) = self.heard.get_mut(&who) {
            (heard.broken, heard.open) = (true, false);
        }
    }

    /// Whether it was well heard all its life.
    fn is_sound(&self, now_ms: u64, who: ProcessInstance) -> bool {
        self.heard.get(&who).is_some_and(|heard| {
            !heard.broken && now_ms.saturating_sub(heard.heard_ms) < self.limit_ms
        })
    }

    /// The engine closes a connection.
    pub(super) fn closes(
        &self,
        who: ProcessInstance,
        closing: &Closing,
        findings: &mut Findings<'_>,
    ) {
        if closing.reason.starts_with(SILENT) && self.is_sound(findings.now_ms, who) {
            findings
                .report(NAME, format!("{who} is told: {}, and was never silent", closing.reason));
        }
    }

    /// The engine takes a process for dead.
    pub(super) fn buries(&self, who: ProcessInstance, run: &str, findings: &mut Findings<'_>) {
        if self.is_sound(findings.now_ms, who) {
            findings.report(
                NAME,
                format!("{run} is taken from {who} as from a dead one, which was never silent"),
            );
        }
    }
}
