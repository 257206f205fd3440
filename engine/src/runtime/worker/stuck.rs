//! Bodies that block their thread, as the session sees them.
//!
//! A body that does not await cannot be ended from within its process. Once it is [`STUCK_AFTER`] past its hard limit, its
//! attempt has failed all the same: the session says so, under the turn's token, and gives the run back, so that whatever
//! the body still does or says is refused (G3). This is the one exception of K7. The worker then drains: it takes no more
//! work, ends what can be ended, and leaves; a thread that may never come back is no place for further runs.
//!
//! [`STUCK_AFTER`]: crate::replay::watch::STUCK_AFTER

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::peer::{HeldTurn, PageWanted, WorkerPeer};
use crate::model::command::Caller;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::{RunNo, StepNo};
use crate::replay::mismatch::span_text;
use crate::replay::watch::Body;
use crate::replay::world::count;
use crate::wire::message::{AskJournal, AttemptFailedReport, GiveBack};
use crate::workflow::TIME_LIMIT;

/// How often turns are looked at. A body begins without a word to the session, so there is no better instant to wake at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl HeldTurn {
    /// When the first of its bodies has been past its hard limit for too long.
    pub(super) fn overdue_at(&self) -> Option<Duration> {
        self.watch.overdue_at()
    }
}

impl WorkerPeer {
    /// Reports bodies that block their threads, and drains if there is one.
    pub(super) fn look_for_stuck(&mut self, now: Duration) {
        if self.look_at > now {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        let late = |held: &HeldTurn| held.overdue_at().is_some_and(|at| at <= now);
        let blocks = |held: &&HeldTurn| late(held) && held.watch.blocks(now);
        let blocking = self.turns.values().filter(blocks).count();
        if blocking > 0 && !self.condemned {
            tracing::error!(
                steps = blocking,
                "a step blocks its thread past its hard limit: the worker takes no more work and leaves"
            );
            self.world
                .counts
                .stuck
                .fetch_add(blocking as u64, Ordering::Relaxed);
            self.condemned = true;
            self.drain(now);
        }
        if !self.condemned {
            return; // a future that nobody polls, or a machine that stood still
        }
        let known = |held: &HeldTurn| held.answer_by.is_none();
        let over: Vec<RunNo> = self
            .turns
            .iter()
            .filter(|(_, held)| late(held) && known(held))
            .map(|(run, _)| *run)
            .collect();
        for run in over {
            self.give_up(run, now);
        }
    }

    /// Says that the attempts have failed, and lets go of the run.
    fn give_up(&mut self, run: RunNo, now: Duration) {
        let Some(held) = self.turns.get(&run) else {
            return;
        };
        let (token, blocks) = (held.token, held.watch.blocks(now));
        for (number, body) in held.watch.overdue(now) {
            let failure = stuck(&body, blocks);
            let text = failure.to_string();
            let told = self.outlet.send(
                self.connection,
                AttemptFailedReport {
                    run,
                    token,
                    number: StepNo(number),
                    place: body.place(),
                    attempt: body.attempt,
                    failure,
                    retry: body.retry,
                },
            );
            if !told {
                return; // again, once there is a connection
            }
            tracing::error!(%run, step = number, name = %body.name, attempt = body.attempt, failure = text, "reported for a step");
        }
        self.outlet.send(self.connection, GiveBack { run, token });
        count(&self.world.counts.given_back);
        if let Some(held) = self.turns.remove(&run) {
            self.stuck.insert(held.turn);
            self.ended.add(run, token);
        }
    }

    /// Asks the engine for a page of a journal. Without a connection the question is dropped, which tells the asker.
    pub(super) fn ask_page(&mut self, wanted: PageWanted) {
        self.next_page += 1;
        let ask = AskJournal {
            request: self.next_page,
            caller: Caller {
                namespace: wanted.namespace,
                ..self.introduction.caller.clone()
            },
            id: wanted.run,
            from: wanted.from,
            limit: wanted.limit,
        };
        if self.outlet.send(self.connection, ask) {
            self.pages.retain(|_, wanted| !wanted.answer.is_closed());
            self.pages.insert(self.next_page, wanted);
        }
    }
}

fn stuck(body: &Body, blocks: bool) -> Failure {
    let limit = span_text(body.hard);
    let text = match blocks {
        true => format!(
            "the attempt is stuck: it blocks its thread and did not end at its hard limit of {limit}; its worker leaves"
        ),
        false => format!(
            "the attempt took longer than its hard limit of {limit}: another step blocks its thread; its worker leaves"
        ),
    };
    Failure::new(FailureKind::Retryable, TIME_LIMIT, text)
}
