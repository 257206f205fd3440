//! Memoized steps: what the engine is asked, and what it is told of them
//! (W12).

use super::{Shared, State};
use crate::model::failure::Failure;
use crate::model::id::{CommandIndex, MemoKey};
use crate::replay::command::{Claim, Command, CommandStage};
use crate::replay::report::Report;

impl Shared {
    /// The first result of a step is that of all steps with this key.
    pub(crate) fn claims(&self, number: u32, key: MemoKey) {
        if let Some(command) = self.state().commands.get_mut(&number) {
            command.claim = Some(Claim::new(key));
        }
    }

    /// A step may make its attempt. Tells whether it wants to, or does already.
    pub(crate) fn attempt_memo(&self, number: CommandIndex) -> bool {
        let State { commands, turn, .. } = &mut *self.state();
        let Some(command) = commands.get_mut(&number.0) else {
            return false;
        };
        let stage = command.stage;
        let Some(claim) = command.claim.as_mut().filter(|claim| claim.asked) else {
            return false;
        };
        if stage == CommandStage::Claiming {
            claim.granted = true;
            command.stage = CommandStage::Asked;
            command.wake(turn.as_ref());
        }
        command.resolution.is_none()
    }

    /// What is stored under a step's key cannot be read. If the step waits for it, its attempt
    /// fails.
    pub(crate) fn memo_failed(&self, number: CommandIndex, failure: Failure) {
        let State { commands, turn, .. } = &mut *self.state();
        let waits = |command: &&mut Command| command.stage == CommandStage::Claiming;
        if let Some(command) = commands.get_mut(&number.0).filter(waits)
            && let Some(claim) = &mut command.claim
        {
            claim.settled();
            claim.failure = Some(failure);
            command.stage = CommandStage::Asked;
            command.wake(turn.as_ref());
        }
    }
}

impl State {
    pub(super) fn claim_of(&mut self, number: CommandIndex) -> Option<&mut Claim> {
        self.commands.get_mut(&number.0)?.claim.as_mut()
    }

    /// A command is gone. If the engine counts on it to make an attempt, or keeps its place in
    /// line, it is told.
    pub(super) fn return_claim(&mut self, number: u32, command: &Command) {
        if command.claim.as_ref().is_some_and(|claim| claim.asked) {
            self.outbox.push(Report::MemoReleased { number });
        }
    }
}
