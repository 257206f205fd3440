//! The commands a function has asked for and that still matter.

use std::borrow::Cow;
use std::panic::Location;
use std::task::Waker;
use std::time::Duration;

use crate::model::entry::{CommandKind, SourceLocation};
use crate::model::failure::Failure;
use crate::model::id::MemoKey;
use crate::model::payload::Payload;
use crate::model::time::Time;

/// How a command ended, before its future has taken notice.
#[derive(Debug)]
pub(crate) enum Resolution {
    /// A step ended well.
    Completed {
        index: u32,
        /// Whether this run came to it: the value that its body returned counts.
        own: bool,
        output: Payload,
    },
    /// A step ended badly, or the run was cancelled.
    Failed(Failure),
    /// A timer was due.
    Fired,
}

/// Where a command is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandStage {
    /// Nothing has been done for it in this turn, or the last attempt has failed.
    Asked,
    /// A step whose first result is everybody's has asked whether it may make an attempt.
    Claiming,
    /// A step's body runs.
    Running,
    /// The engine was told and has not answered.
    Reported,
    /// A timer is armed.
    Armed,
}

/// A step whose first result is everybody's.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) key: MemoKey,
    /// The engine has been asked, and may count on us.
    pub(crate) asked: bool,
    /// The attempt may be made.
    pub(crate) granted: bool,
    /// What is stored under the key cannot be read.
    pub(crate) failure: Option<Failure>,
}

impl Claim {
    pub(crate) fn new(key: MemoKey) -> Self {
        Self { key, asked: false, granted: false, failure: None }
    }

    /// The attempt is over, and the engine learns of that.
    pub(crate) fn settled(&mut self) {
        (self.asked, self.granted) = (false, false);
    }
}

/// One command whose future exists. A command that has been answered or whose future was dropped is
/// not kept.
pub(crate) struct Command {
    pub(crate) kind: CommandKind,
    pub(crate) name: Cow<'static, str>,
    pub(crate) span: Duration,
    pub(crate) location: &'static Location<'static>,
    pub(crate) stage: CommandStage,
    /// Whether the function has ever polled it: only then it waits for it.
    pub(crate) polled: bool,
    /// Whether it wanted to start a body while that was not allowed.
    pub(crate) gated: bool,
    pub(crate) claim: Option<Claim>,
    pub(crate) attempts: u32,
    /// Not tried again before this, or due then.
    pub(crate) wakes_at: Option<Time>,
    pub(crate) resolution: Option<Resolution>,
    pub(crate) waker: Option<Waker>,
}

impl Command {
    pub(crate) fn new(
        kind: CommandKind,
        name: Cow<'static, str>,
        span: Duration,
        location: &'static Location<'static>,
    ) -> Self {
        Self {
            kind,
            name,
            span,
            location,
            stage: CommandStage::Asked,
            polled: false,
            gated: false,
            claim: None,
            attempts: 0,
            wakes_at: None,
            resolution: None,
            waker: None,
        }
    }

    /// Where in the code it was asked for.
    pub(crate) fn source_location(&self, version: u32) -> SourceLocation {
        SourceLocation { name: self.name.to_string(), at: at(self.location), version }
    }

    /// Remembers whom to wake.
    pub(crate) fn woken_by(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Wakes whoever polled it last, unless that is the task that polls the function anyway.
    pub(crate) fn wake(&self, turn: Option<&Waker>) {
        if let Some(waker) = &self.waker
            && !turn.is_some_and(|turn| turn.will_wake(waker))
        {
            waker.wake_by_ref();
        }
    }
}

/// `order.rs:41`.
pub(crate) fn at(location: &Location<'_>) -> String {
    let file = location.file().rsplit(['/', '\\']).next().unwrap_or_default();
    format!("{file}:{}", location.line())
}
