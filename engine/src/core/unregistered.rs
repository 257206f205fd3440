//! Runs of unregistered workflows: after a time in line they become dead letters.
//!
//! The clock runs only while some worker that offers slots of the run's queue is connected: while a
//! whole fleet is down nothing dies. A worker that has registered the workflow, connected anywhere,
//! stops the clock, and it begins anew when the last such worker has left. It begins anew too when
//! the engine opens. It goes by monotonic time, so that a jump of the wall clock kills
//! nothing.
//!
//! There is no object for a run. Each queue that is served has a clock of its service and, every
//! tenth of the time, a mark: how far the sequence numbers were given then. A run whose place
//! in line is before a mark that is old enough has waited for long enough. The runs that die are
//! taken from what is set aside at the front of the lanes, a bounded number at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Core;
use super::dead::DeathCause;
use super::load::Want;
use super::output::Output;
use super::queue::QueuedItem;
use super::run::RunImage;
use super::session::Session;
use crate::canary::canary;
use crate::model::dead::UNREGISTERED_WORKFLOW;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::ProcessInstance;
use crate::model::run::RunState;

/// How long a run waits for a worker that has registered its workflow, unless told otherwise.
pub const UNREGISTERED_WORKFLOW_AFTER_DEFAULT: Duration = Duration::from_secs(600);
/// Runs that are read at a time to die.
const DYING_MAX: usize = 128;

/// Workflows remembered that were registered once: those that were registered last.
const LEFT_MAX: usize = 10_000;

/// How long a queue has been served, and marks of it.
#[derive(Debug, Default)]
struct Service {
    serving: bool,
    served: Duration,
    marks: VecDeque<ServiceMark>,
}

#[derive(Debug, Clone, Copy)]
struct ServiceMark {
    served: Duration,
    mono: Duration,
    sequence: u64,
}

impl Service {
    /// The newest mark that is at least as old as `limit`, in time of service.
    fn mark_of(&mut self, limit: Duration) -> Option<ServiceMark> {
        let at_once = canary!("a run of an unregistered workflow dies at once");
        let old = |mark: &ServiceMark| at_once || mark.served + limit <= self.served;
        while self.marks.get(1).is_some_and(old) {
            self.marks.pop_front();
        }
        self.marks.front().copied().filter(old)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UnregisteredWorkflows {
    looked_at: Duration,
    next_look: Duration,
    services: BTreeMap<u32, Service>,
    /// When the last worker that registered a workflow left.
    left: BTreeMap<String, Duration>,
    /// Runs that are being read.
    dying: usize,
    /// More are to die as soon as those have.
    more: bool,
}

impl UnregisteredWorkflows {
    /// Whether it is to be called at once.
    pub(super) fn goes_on(&self) -> bool {
        self.more && self.dying == 0
    }

    /// A worker that knew these workflows has left, and nobody else knows them.
    pub(super) fn nobody_knows(&mut self, workflows: impl Iterator<Item = String>, mono: Duration) {
        self.left.extend(workflows.map(|workflow| (workflow, mono)));
        while self.left.len() > LEFT_MAX
            && let Some(oldest) = self.left.iter().min_by_key(|(_, at)| **at)
        {
            let oldest = oldest.0.clone();
            self.left.remove(&oldest);
        }
    }

    fn nobody_knew_since(&self, workflow: &str, mono: Duration) -> bool {
        self.left.get(workflow).is_none_or(|left| *left <= mono)
    }

    pub(super) fn one_less(&mut self) {
        self.dying = self.dying.saturating_sub(1);
    }
}

impl Core {
    /// Lets runs die whose workflow nobody has known for too long.
    pub(super) fn look_for_unregistered(&mut self, out: &mut Output) {
        let limit = self.settings.unregistered_workflow_after;
        let goes_on = self.unregistered.goes_on();
        if self.mono < self.unregistered.next_look && !goes_on {
            return;
        }
        let interval = (limit / 20).clamp(Duration::from_millis(50), Duration::from_secs(5));
        self.unregistered.next_look = self.mono + interval;
        self.serve_clocks(limit);
        self.unregistered.more = false;
        let queues: Vec<u32> = self.unregistered.services.keys().copied().collect();
        for number in queues {
            self.let_unregistered_die(number, limit, out);
        }
    }

    /// The clocks of the queues that are served go on.
    fn serve_clocks(&mut self, limit: Duration) {
        // Longer than this nobody has looked: who knows who was there.
        let passed = self.mono.saturating_sub(self.unregistered.looked_at);
        let passed = passed.min(self.settings.session_timeout);
        self.unregistered.looked_at = self.mono;
        let served: BTreeSet<u32> = self.sessions.values().flat_map(Session::queues).collect();
        for (number, service) in &mut self.unregistered.services {
            if service.serving && served.contains(number) {
                service.served += passed;
            }
            service.serving = served.contains(number);
        }
        for number in served {
            let service = self.unregistered.services.entry(number).or_default();
            service.serving = true;
            let last = service.marks.back().map(|mark| mark.served);
            if last.is_none_or(|last| last + limit / 10 <= service.served) {
                service.marks.push_back(ServiceMark {
                    served: service.served,
                    mono: self.mono,
                    sequence: self.tally.next_sequence,
                });
            }
        }
    }

    fn let_unregistered_die(&mut self, number: u32, limit: Duration, out: &mut Output) {
        let Some(mark) = self
            .unregistered
            .services
            .get_mut(&number)
            .filter(|service| service.serving)
            .and_then(|service| service.mark_of(limit))
        else {
            return;
        };
        let left = DYING_MAX.saturating_sub(self.unregistered.dying);
        let (sessions, unregistered) = (&self.sessions, &self.unregistered);
        let nobody_knows = |workflow: &str| {
            let idle = canary!("a workflow whose workers are busy is unregistered");
            let knows =
                |session: &Session| session.knows(workflow) && (!idle || session.has_room(number));
            !sessions.values().any(knows) && unregistered.nobody_knew_since(workflow, mark.mono)
        };
        let Some(queue) = self.queues.get_mut(&number) else {
            return;
        };
        let taken = queue.take_out(left, mark.sequence, nobody_knows);
        if taken.is_empty() {
            return;
        }
        self.unregistered.more = true;
        self.unregistered.dying += taken.len();
        self.unsettled.insert(number);
        for item in taken {
            self.want(item.run, Want::Unregistered { item }, out);
        }
    }

    /// The run has been read: it dies, unless it or the workers have changed meanwhile.
    pub(super) fn unregistered_loaded(
        &mut self,
        image: RunImage,
        item: QueuedItem,
        out: &mut Output,
    ) {
        self.unregistered.one_less();
        let mut run = image.run;
        if run.ended.is_some() || image.stopped.is_some() {
            return Self::dequeue_row(&item, out); // it ended in line (cancelled)
        }
        let idle = canary!("a workflow whose workers are busy is unregistered");
        let knows = |session: &Session| {
            session.knows(&item.workflow) && (!idle || session.has_room(item.queue))
        };
        let known = self.sessions.values().any(knows);
        if known {
            return self.put_back(item);
        }
        Self::dequeue_row(&item, out);
        let why = format!(
            "no worker connected in the last {} has registered the workflow `{}`: deploy one that does and redrive the run",
            minutes(self.settings.unregistered_workflow_after),
            run.workflow
        );
        let failure = Failure::new(FailureKind::Terminal, UNREGISTERED_WORKFLOW, why);
        let death = DeathCause {
            from: RunState::Queued,
            failure,
            end: None,
            worker: (ProcessInstance::default(), String::new()),
        };
        self.die(&mut run, death, out);
    }
}

fn minutes(span: Duration) -> String {
    match span.as_secs() {
        secs if secs >= 60 && secs.is_multiple_of(60) => format!("{} min", secs / 60),
        _ => format!("{:.1} s", span.as_secs_f64()),
    }
}
