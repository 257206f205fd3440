//! Where code and journal disagree, in words.

use std::time::Duration;

use crate::model::entry::{CommandKind, Entry, SourceLocation};

/// Code and journal disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// The entry they disagree at.
    pub(crate) index: u32,
    /// What the journal holds there.
    pub(crate) journal_holds: String,
    /// What the code asked.
    pub(crate) code_asked: String,
}

/// `step "charge-card"  order.rs:41, workflow version 3`, or `timer 24h  …`.
pub(crate) fn command_text(
    kind: CommandKind,
    span: Option<Duration>,
    location: &SourceLocation,
) -> String {
    let what = match (kind, span) {
        (CommandKind::Step, _) => format!("step {:?}", location.name),
        (CommandKind::Timer, Some(span)) => format!("timer {}", span_text(span)),
        (CommandKind::Timer, None) => "timer".to_owned(),
    };
    format!("{what}  {}, workflow version {}", location.at, location.version)
}

/// How long a timer was armed for.
pub(crate) fn span_of(entry: &Entry) -> Option<Duration> {
    match entry {
        Entry::TimerArmed(e) => Some(e.due.since(e.at)),
        _ => None,
    }
}

/// `24h`, `90s`, `1h 30m`, `250ms`: the two largest units that matter.
pub(crate) fn span_text(span: Duration) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let mut left = span.as_millis();
    // A single day is better known as 24h.
    let skip = usize::from(left <= 86_400_000);
    let mut parts = Vec::new();
    for (ms, unit) in &units[skip..] {
        let (count, rest) = (left / ms, left % ms);
        if count > 0 && parts.len() < 2 {
            parts.push(format!("{count}{unit}"));
        }
        left = rest;
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        let spans = [0, 250, 90_000, 5_400_000, 86_400_000, 3 * 86_400_000, 93_600_000, 40_000];
        let texts = spans.map(|ms| span_text(Duration::from_millis(ms)));
        assert_eq!(texts, ["0s", "250ms", "1m 30s", "1h 30m", "24h", "3d", "1d 2h", "40s"]);
    }

    #[test]
    fn a_step_is_told_with_its_location() {
        let location =
            SourceLocation { name: "charge-card".into(), at: "order.rs:41".into(), version: 3 };
        let text = command_text(CommandKind::Step, None, &location);
        assert_eq!(text, "step \"charge-card\"  order.rs:41, workflow version 3");
    }
}
