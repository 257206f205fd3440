//! Code that blocks its thread, as the session sees it.
//!
//! Code that does not await cannot be ended from within its process. Once a body is [`STUCK_AFTER`]
//! past its timeout, its attempt has failed all the same: the session says so, under the turn's
//! token, and requeues the run, so that whatever the body still does or says is refused (G3).
//! This is the one exception of K7. The worker then drains: it takes no more work, ends what can be
//! ended, and leaves; a thread that may never come back is no place for further runs.
//!
//! The same holds for the workflow's function outside of bodies, once its own code has been running
//! that much past the function's timeout: what has failed is an attempt at the whole of it. What
//! the journal holds stays, and the next attempt replays it. A turn that is not held any more has
//! nothing to report, but its thread is as lost.
//!
//! [`STUCK_AFTER`]: crate::replay::watch::STUCK_AFTER

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::peer::{HeldTurn, PageWanted, WorkerPeer};
use crate::model::failure::TIMEOUT_CLASS;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::{CommandIndex, RunNo, Token};
use crate::replay::mismatch::span_text;
use crate::replay::watch::{Blocker, RunningAttempt, Watch};
use crate::replay::world::count;
use crate::wire::message::{AttemptFailedReport, JournalPageRequested, Requeue, TurnFailed};

/// How often turns are looked at. Code runs without a word to the session, so there is no better
/// instant to wake at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl WorkerPeer {
    /// Reports code that blocks its thread, and drains if there is some.
    pub(super) fn look_for_stuck(&mut self, now: Duration) {
        if self.look_at > now {
            return;
        }
        let stood_still = now > self.look_at + LOOK_EVERY;
        self.look_at = now + LOOK_EVERY;
        if stood_still {
            return; // with all that it looks at: what it sees has not been given its time
        }
        let blocks = |watch: &Watch| watch.is_overdue(now) && watch.blocks(now);
        let gone: Vec<u64> = (self.parted.iter())
            .filter_map(|(turn, watch)| blocks(watch).then_some(*turn))
            .collect();
        self.parted.retain(|turn, _| !gone.contains(turn));
        let held = self.turns.values().filter(|held| blocks(&held.watch));
        let blocking = held.count() + gone.len();
        self.stuck.extend(gone);
        if blocking > 0 && !self.condemned {
            tracing::error!(
                turns = blocking,
                "a step or a workflow's function blocks its thread past its timeout: the worker takes no more work and leaves"
            );
            self.world.counts.stuck.fetch_add(blocking as u64, Ordering::Relaxed);
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
            .filter(|(_, held)| held.watch.is_overdue(now) && known(held))
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
        let (token, blocker) = (held.token, held.watch.blocker(now));
        for (number, body) in held.watch.overdue(now) {
            let failure = stuck((number, &body), blocker);
            let text = failure.to_string();
            let told = self.outlet.send(
                self.connection,
                AttemptFailedReport {
                    run,
                    token,
                    number: CommandIndex(number),
                    location: body.source_location(),
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
        match held.watch.function_overdue(now) {
            Some(limit) if !self.function_failed((run, token), &held.watch, limit) => return,
            Some(_) => {}
            None => {
                self.outlet.send(self.connection, Requeue { run, token });
                count(&self.world.counts.requeued);
            }
        }
        if let Some(held) = self.turns.remove(&run) {
            self.stuck.insert(held.turn);
            self.ended.add(run, token);
        }
    }

    /// Says that an attempt at the whole function has failed, which ends the turn. Tells whether it
    /// could be said.
    fn function_failed(
        &self,
        (run, token): (RunNo, Token),
        watch: &Watch,
        limit: Duration,
    ) -> bool {
        let limit = span_text(limit);
        let text = format!(
            "the workflow's function is stuck: outside of its steps it blocks its thread, past its timeout of {limit}; its worker leaves"
        );
        let failure = Failure::new(FailureKind::Retryable, TIMEOUT_CLASS, text);
        let text = failure.to_string();
        let report =
            TurnFailed { run, token, failure, whole: true, end: Some(watch.function_end()) };
        let told = self.outlet.send(self.connection, report);
        if told {
            tracing::error!(%run, failure = text, "reported for a workflow's function");
        }
        told
    }

    /// Asks the engine for a page of a journal. Without a connection, or before the engine has said
    /// over it that the lease goes on, the question is dropped, which tells the asker.
    pub(super) fn ask_page(&mut self, wanted: PageWanted) {
        let Some((run, token)) = self.confirmed(wanted.run) else {
            return;
        };
        self.next_page += 1;
        let (from, limit) = (wanted.from, wanted.limit);
        let ask = JournalPageRequested { page: self.next_page, run, token, from, limit };
        if self.outlet.send(self.connection, ask) {
            self.pages.retain(|_, wanted| !wanted.answer.is_closed());
            self.pages.insert(self.next_page, wanted);
        }
    }
}

fn stuck((number, body): (u32, &RunningAttempt), blocker: Option<Blocker>) -> Failure {
    let limit = span_text(body.hard);
    let late = format!("the attempt took longer than its timeout of {limit}");
    let text = match blocker {
        Some(Blocker::RunningAttempt(blocking)) if blocking == number => format!(
            "the attempt is stuck: it blocks its thread and did not end at its timeout of {limit}; its worker leaves"
        ),
        Some(Blocker::Function) => {
            format!("{late}: its workflow's function blocks its thread; its worker leaves")
        }
        _ => format!("{late}: another step blocks its thread; its worker leaves"),
    };
    Failure::new(FailureKind::Retryable, TIMEOUT_CLASS, text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::model::id::{ProcessInstance, RunId, SessionId};
    use crate::model::request::HasEnded;
    use crate::model::run::RunState;
    use crate::model::time::Time;
    use crate::replay::world::{Registry, World};
    use crate::runtime::fake_engine::{env, started, stored, token};
    use crate::runtime::link::Link;
    use crate::runtime::session::Peer;
    use crate::runtime::worker::peer::Introduction;
    use crate::wire::handshake::Protocols;
    use crate::wire::message::{Dispatch, Message, Revoked, Welcome};

    const RUN: RunNo = RunNo(1);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A worker to which a run was dispatched 100 s ago. Its turn's task is never polled: the test
    /// says what it does.
    fn holding() -> (WorkerPeer, Arc<Watch>, Link) {
        let introduction = Introduction {
            protocols: Protocols::OWN,
            principal: String::new(),
            process: ProcessInstance(1),
            build: "b".to_owned(),
            workflows: Vec::new(),
            queues: Vec::new(),
            tags: Vec::new(),
            grace: at(10),
        };
        let world = Arc::new(World::new(env().clock, Registry::new()));
        let runtime = tokio::runtime::Handle::current();
        let (reached, _) = watch::channel(None);
        let (controls, _) = mpsc::unbounded_channel();
        let mut peer = WorkerPeer::new(introduction, world, runtime, reached, controls);
        let (ours, theirs) = Link::pair();
        let welcome = Welcome {
            protocol: Protocols::OWN.max,
            session: SessionId(1),
            store: 7,
            epoch: 1,
            heartbeat_ms: 2_000,
            session_timeout_ms: 10_000,
            payload_bytes_max: 1_000,
            now: Time(1_000_000),
        };
        peer.welcomed(&welcome, theirs.sender, at(99));
        let journal = [started("work")];
        let dispatch = Dispatch {
            run: RUN,
            token: token(1),
            id: RunId(1),
            count: 1,
            entries: stored(&journal),
            now: Time(0),
        };
        peer.received(dispatch.into(), at(99));
        let watch = peer.turns[&RUN].watch.clone();
        watch.set_timeout(at(30));
        (peer, watch, ours)
    }

    fn check_after(peer: &mut WorkerPeer, seconds: impl IntoIterator<Item = u64>) {
        seconds.into_iter().for_each(|second| peer.tick(at(second)));
    }

    fn sent(link: &mut Link) -> Vec<Message> {
        std::iter::from_fn(|| link.receiver.try_recv().ok()).collect()
    }

    // A44: the session says that the function has failed, and the worker leaves.
    #[tokio::test]
    async fn a_function_that_blocks_its_thread_is_reported_5_s_past_its_timeout() {
        let (mut peer, watch, mut link) = holding();
        watch.poll_begins(at(100));
        check_after(&mut peer, 99..135);
        assert!(sent(&mut link).is_empty() && peer.leaves().is_none());
        check_after(&mut peer, [135]);
        let said = sent(&mut link);
        let [Message::Offer(offer), Message::TurnFailed(failed)] = &said[..] else {
            panic!("{said:?}")
        };
        assert!(offer.queues.is_empty());
        assert!(failed.whole && failed.run == RUN && failed.token == token(1));
        assert_eq!(failed.failure.class, TIMEOUT_CLASS);
        assert!(failed.failure.is_retryable() && failed.failure.message.contains("timeout of 30s"));
        assert!(peer.leaves().is_some());
    }

    // A44: a turn that was revoked while it blocks its thread has nothing to say, but its thread is
    // lost all the same.
    #[tokio::test]
    async fn a_turn_that_is_not_held_any_more_condemns_its_worker_too() {
        let (mut peer, watch, mut link) = holding();
        watch.poll_begins(at(100));
        let over = HasEnded { id: RunId(1), state: RunState::Cancelled };
        let revoked = Revoked { run: RUN, token: token(1), reason: over.into() };
        peer.received(revoked.into(), at(101));
        assert!(peer.turns.is_empty());
        check_after(&mut peer, 99..135);
        assert!(sent(&mut link).is_empty() && peer.leaves().is_none());
        check_after(&mut peer, [135]);
        let said = sent(&mut link);
        assert!(matches!(&said[..], [Message::Offer(_)]), "{said:?}");
        assert!(peer.leaves().is_some());
    }

    // Time in which the process stood still is nobody's fault.
    #[tokio::test]
    async fn a_process_that_stood_still_blames_nobody_for_it() {
        let (mut peer, watch, mut link) = holding();
        watch.poll_begins(at(100));
        check_after(&mut peer, [99, 100, 1_000]);
        watch.poll_ends();
        check_after(&mut peer, 1_001..1_010);
        assert!(sent(&mut link).is_empty() && peer.leaves().is_none());
    }
}
