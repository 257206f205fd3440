//! What is told of queues: gauges that are exact at the commit they are told with, and work that
//! no connected worker offers.
//!
//! Counts are kept per queue and written with every batch that changes them
//! ([`PoolRecord`](crate::tables::PoolRecord)). The run that waits longest is at the head of some
//! lane; a lane that has not been read yet is read before the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::admission::Shut;
use super::asked::Asked;
use super::lane::WINDOW_LOW;
use super::load::Want;
use super::output::{Note, Output};
use super::{Core, Session};
use crate::model::queue::QueueSummary;
use crate::model::request::NoSuchQueue;
use crate::model::run::RunState;
use crate::model::time::{Time, as_ms};
use crate::wire::message::{AskQueues, QueuesReply};

/// Work that nobody offers is looked for this often while any is queued, or more often if it is to
/// be told sooner.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Reasons of one queue that are told at most.
const REASONS_MAX: usize = 16;
/// Kinds of work of one queue that are looked at, at most.
const KINDS_MAX: usize = 256;

/// A workflow, the tags that are asked for, the builds to avoid; none: whatever is queued in the
/// queue.
type WorkSelector = Option<(String, Vec<String>, Vec<String>)>;

/// Unserved queues: work that no connected worker offers.
#[derive(Debug, Default)]
pub(super) struct UnservedQueues {
    /// Since when, whatever the reason was meanwhile.
    since: BTreeMap<(u32, WorkSelector), Duration>,
    /// What has been told: the queue and the reason.
    told: BTreeSet<(u32, String)>,
    look_at: Duration,
}

impl Core {
    pub(super) fn ask_queues(&mut self, ask: Asked<AskQueues>) {
        self.asked_queues.push(ask);
    }

    /// Answers questions about queues, unless something must be read first.
    pub(super) fn answer_queues(&mut self, out: &mut Output) {
        for asked in std::mem::take(&mut self.asked_queues) {
            if !self.sessions.contains_key(&asked.to.session) {
                continue;
            }
            let numbers = match self.queues_asked(&asked.request) {
                Ok(numbers) => numbers,
                Err(reason) => {
                    out.refuse(asked.to, reason);
                    continue;
                }
            };
            if self.reads_heads(&numbers, out) {
                self.asked_queues.push(asked);
                continue;
            }
            let queues = numbers.iter().map(|(name, no)| self.gauges(name, *no));
            let queues = queues.collect();
            out.reply(asked.to, QueuesReply { queues });
        }
    }

    fn queues_asked(&self, ask: &AskQueues) -> Result<Vec<(String, u32)>, NoSuchQueue> {
        let all = self.queue_numbers.iter().map(|(name, no)| (name.clone(), *no));
        match &ask.queue {
            None => Ok(all.collect()),
            Some(queue) => match self.queue_numbers.get(queue) {
                Some(number) => Ok(vec![(queue.clone(), *number)]),
                None => Err(NoSuchQueue { queue: queue.clone() }),
            },
        }
    }

    /// Whether lanes must be read before it is known where they begin.
    fn reads_heads(&mut self, numbers: &[(String, u32)], out: &mut Output) -> bool {
        let mut reads = false;
        for (_, number) in numbers {
            let Some(queue) = self.queues.get_mut(number) else {
                continue;
            };
            if queue.admission.queued > 0 && queue.is_unread() {
                queue.refills(*number, WINDOW_LOW, out);
                reads = true;
            }
        }
        reads
    }

    fn gauges(&self, name: &str, number: u32) -> QueueSummary {
        let now = self.now();
        let Some(queue) = self.queues.get(&number) else {
            return QueueSummary::default();
        };
        let pool = &queue.admission;
        let mut reasons = Vec::new();
        match pool.shut(now) {
            Some(Shut::Paused) => reasons.push("paused".to_owned()),
            Some(Shut::AtLimit) if pool.queued > 0 => {
                reasons.push("at its concurrency limit".to_owned());
            }
            Some(Shut::Empty { .. }) if pool.queued > 0 => {
                reasons.push("at its rate limit".to_owned());
            }
            _ => {}
        }
        reasons.extend(self.unserved_of(number));
        let offered = || self.sessions.values().map(|session| session.offered(number));
        QueueSummary {
            name: name.to_owned(),
            settings: pool.settings(),
            queued: pool.queued,
            running: pool.running(),
            delayed: pool.delayed,
            suspended: pool.suspended,
            oldest_since: self.oldest_since(number).filter(|_| pool.queued > 0),
            workers: offered().filter(|slots| *slots > 0).count() as u64,
            slots: offered().map(u64::from).sum(),
            reasons,
            now,
        }
    }

    /// Since when the first run in line has its place: in a lane, or on its way to a worker.
    fn oldest_since(&self, number: u32) -> Option<Time> {
        let wants = self.mailboxes.values().flat_map(|mailbox| &mailbox.wants);
        let leaving = wants.filter_map(|want| {
            let Want::Lease { item, .. } = want else { return None };
            (item.queue == number).then_some(item.since)
        });
        let waiting = self.queues.get(&number).and_then(|queue| queue.oldest_since());
        leaving.chain(waiting).min()
    }

    /// The queued work of a queue, as far as it is in memory, and offered by nobody: why, in words.
    /// Of a paused queue nothing is missed.
    fn unserved_of(&self, number: u32) -> impl Iterator<Item = String> + use<> {
        let reasons: BTreeSet<String> = self.kinds_unserved_of(number).into_values().collect();
        reasons.into_iter().take(REASONS_MAX)
    }

    fn kinds_unserved_of(&self, number: u32) -> BTreeMap<WorkSelector, String> {
        let mut reasons = BTreeMap::new();
        let Some(queue) = self
            .queues
            .get(&number)
            .filter(|q| q.admission.queued > 0 && !q.admission.settings().paused)
        else {
            return reasons;
        };
        let serving: Vec<&Session> = self.sessions.values().filter(|s| s.serves(number)).collect();
        if serving.is_empty() {
            reasons.insert(None, "no worker offers this queue".to_owned());
        }
        for (workflow, tags, avoid) in queue.needs() {
            if reasons.len() > KINDS_MAX {
                break;
            }
            let kind = Some((workflow.clone(), tags.to_vec(), avoid.to_vec()));
            if serving.is_empty() {
                reasons.insert(kind, "no worker offers this queue".to_owned());
                continue;
            }
            if serving.iter().any(|s| s.can_take(workflow, tags, avoid)) {
                continue;
            }
            let knowing: Vec<_> = serving.iter().filter(|s| s.knows(workflow)).collect();
            let reason = if knowing.is_empty() {
                format!("no worker has registered workflow `{workflow}`")
            } else if knowing.iter().any(|s| s.has(tags)) {
                format!("no worker has registered workflow `{workflow}` in a build it has not failed on")
            } else {
                let tags: Vec<String> = tags.iter().map(|tag| format!("`{tag}`")).collect();
                let (tags, s) = (tags.join(" and "), if tags.len() == 1 { "" } else { "s" });
                format!("no worker that has registered workflow `{workflow}` offers tag{s} {tags}")
            };
            reasons.insert(kind, reason);
        }
        reasons
    }

    /// When work that nobody offers is looked for next.
    pub(super) fn looks_for_workers_at(&self) -> Option<Duration> {
        let queued = self.tally.runs[usize::from(u8::from(RunState::Queued)) - 1];
        (queued > 0 || !self.unserved.since.is_empty()).then_some(self.unserved.look_at)
    }

    /// Tells once of work that nobody has offered for a while, and once more when somebody does.
    pub(super) fn look_for_workers(&mut self, out: &mut Output) {
        let after = self.settings.unserved_queue_after;
        if self.mono < self.unserved.look_at {
            return;
        }
        self.unserved.look_at =
            self.mono + LOOK_EVERY.min((after / 12).max(Duration::from_millis(50)));
        let names = self.queue_numbers.iter();
        let names: BTreeMap<u32, String> = names.map(|(name, no)| (*no, name.clone())).collect();
        let before = std::mem::take(&mut self.unserved.since);
        let mut told = std::mem::take(&mut self.unserved.told);
        for (number, name) in &names {
            // For each reason: since when there is work for which it holds.
            let mut reasons: BTreeMap<String, Duration> = BTreeMap::new();
            let nobody_at_all = before.get(&(*number, None)).copied();
            for (kind, reason) in self.kinds_unserved_of(*number) {
                let key = (*number, kind);
                let since = before.get(&key).copied().or(nobody_at_all);
                let since = since.unwrap_or(self.mono);
                self.unserved.since.insert(key, since);
                let first = reasons.entry(reason).or_insert(since);
                *first = since.min(*first);
            }
            for (reason, since) in reasons.into_iter().take(REASONS_MAX) {
                let span = self.mono.saturating_sub(since);
                let key = (*number, reason);
                if span >= after && !told.contains(&key) {
                    out.note(Note::UnservedQueue {
                        queue: name.clone(),
                        reason: key.1.clone(),
                        for_ms: as_ms(span),
                    });
                }
                if told.remove(&key) || span >= after {
                    self.unserved.told.insert(key);
                }
            }
        }
        for (number, reason) in told {
            let queue = names.get(&number).cloned().unwrap_or_default();
            out.note(Note::UnservedQueueCleared { queue, reason });
        }
    }
}
