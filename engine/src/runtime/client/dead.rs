//! Dead letters: lists of them, and what is done with them, one at a time or many.

use std::time::Duration;

use super::{Client, ClientError};
use crate::model::dead::{AuditCursor, AuditEntry, DeadCursor, DeadFilter, DeadLetter};
use crate::model::id::{RequestId, RunId};
use crate::model::payload::Payload;
use crate::wire::message::{AskAudit, AskLetters, Discard, DoneReply, EditInput, Redrive};

/// Dead letters asked for at once.
const PAGE: u32 = 200;

/// What is done with many dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum BulkAction {
    /// They are sent back to work.
    Redrive,
    /// They are taken off the list, for this reason.
    Discard(String),
}

/// One of many dead letters has been looked after.
#[derive(Debug)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Looked {
    /// Which.
    pub letter: DeadLetter,
    /// What came of it: a refusal concerns this one only.
    pub answer: Result<(), crate::model::request::Refusal>,
}

impl Client {
    /// A page of the dead letters that fit, newest first, and where to go on, if there may be more.
    /// A page may have fewer rows than asked for, even none, and not be the last.
    pub async fn dead_letters(
        &self,
        filter: &DeadFilter,
        behind: Option<DeadCursor>,
        limit: u32,
    ) -> Result<(Vec<DeadLetter>, Option<DeadCursor>), ClientError> {
        let reply = self.ask(AskLetters { filter: filter.clone(), behind, limit }).await?;
        Ok((reply.letters, reply.next))
    }

    /// A request id, to give to [`redrive_as`](Self::redrive_as) and its like: however
    /// often it is used, by this process or another one, the request takes effect once.
    pub fn new_request_id(&self) -> RequestId {
        RequestId(self.random())
    }

    /// Gives a dead letter another input, which its function gets once it is redriven. Finished
    /// steps keep what they returned; a function that takes another way because of the input is
    /// parked, as after a change of its code.
    ///
    /// Errors: [`NotDead`](crate::model::request::NotDead),
    /// [`NoSuchRun`](crate::model::request::NoSuchRun),
    /// [`PayloadTooLarge`](crate::model::request::PayloadTooLarge),
    /// [`BadInput`](crate::model::request::BadInput).
    pub async fn edit_input(&self, id: RunId, input: Payload) -> Result<(), ClientError> {
        self.edit_input_as(self.new_request_id(), id, input).await
    }

    /// The same, as a request that may have been made before.
    pub async fn edit_input_as(
        &self,
        request_id: RequestId,
        id: RunId,
        input: Payload,
    ) -> Result<(), ClientError> {
        let DoneReply {} = self.ask_as(request_id, EditInput { id, input }).await?;
        Ok(())
    }

    /// Sends a dead letter back to work: finished steps are kept, the failed one is tried again
    /// under its key, with all its retries. Answers once that is durable, not once the run has
    /// ended.
    ///
    /// Errors: [`NotDead`](crate::model::request::NotDead);
    /// [`WentOn`](crate::model::request::WentOn) if the workflow asked for further commands after
    /// it had seen the failure; [`NoSuchRun`](crate::model::request::NoSuchRun).
    pub async fn redrive(&self, id: RunId) -> Result<(), ClientError> {
        self.redrive_as(self.new_request_id(), id).await
    }

    /// The same, as a request that may have been made before.
    pub async fn redrive_as(&self, request_id: RequestId, id: RunId) -> Result<(), ClientError> {
        let DoneReply {} = self.ask_as(request_id, Redrive { id }).await?;
        Ok(())
    }

    /// Takes a dead letter off the list. The run stays ended, as discarded.
    ///
    /// Errors: [`NotDead`](crate::model::request::NotDead),
    /// [`NoSuchRun`](crate::model::request::NoSuchRun).
    pub async fn discard(&self, id: RunId, reason: &str) -> Result<(), ClientError> {
        self.discard_as(self.new_request_id(), id, reason).await
    }

    /// The same, as a request that may have been made before.
    pub async fn discard_as(
        &self,
        request_id: RequestId,
        id: RunId,
        reason: &str,
    ) -> Result<(), ClientError> {
        let DoneReply {} =
            self.ask_as(request_id, Discard { id, reason: reason.to_owned() }).await?;
        Ok(())
    }

    /// Redrives or discards all dead letters that fit, newest first, at most `per_second` of them a
    /// second.
    ///
    /// What dies from now on is not meant, so nothing is redriven twice. A call that is cut off is
    /// simply made again: what is done has left the list. A refusal concerns one run: it is told to
    /// `each`, and the others follow.
    ///
    /// **Cancel safety**: may be dropped; what was done stays done.
    pub async fn dead_many(
        &self,
        filter: &DeadFilter,
        action: &BulkAction,
        per_second: Option<u32>,
        mut each: impl FnMut(Looked),
    ) -> Result<(), ClientError> {
        let now = self.stats().await?.now;
        let filter = DeadFilter {
            before: Some(filter.before.map_or(now, |before| before.min(now))),
            ..filter.clone()
        };
        let pause = per_second.map(|rate| Duration::from_secs(1) / rate.max(1));
        let mut behind = None;
        loop {
            let (letters, next) = self.dead_letters(&filter, behind, PAGE).await?;
            for letter in letters {
                let answer = match action {
                    BulkAction::Redrive => self.redrive(letter.id).await,
                    BulkAction::Discard(reason) => self.discard(letter.id, reason).await,
                };
                let answer = match answer {
                    Err(ClientError::Refused(refusal)) => Err(refusal),
                    answer => Ok(answer?),
                };
                each(Looked { letter, answer });
                if let Some(pause) = pause {
                    self.shared.env.clock.sleep(pause).await;
                }
            }
            behind = next;
            if behind.is_none() {
                return Ok(());
            }
        }
    }

    /// A page of the audit log, newest first, and where to go on, if there may be more.
    pub async fn audit(
        &self,
        run: Option<RunId>,
        behind: Option<AuditCursor>,
        limit: u32,
    ) -> Result<(Vec<AuditEntry>, Option<AuditCursor>), ClientError> {
        let reply = self.ask(AskAudit { run, behind, limit }).await?;
        Ok((reply.entries, reply.next))
    }
}
