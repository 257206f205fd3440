//! One priority of a queue: a window in memory over what is stored, refilled behind a cursor.
//!
//! The window is looked through by *class* (workflow, tags, builds to avoid): what a worker cannot
//! take does not stand in the way of what it can. While somebody finds nothing in a full window,
//! more is read, up to [`LOOK_PAST_MAX`].

use std::collections::{BTreeMap, BTreeSet};

use super::Session;
use super::queue::QueuedItem;

/// Queued runs of one lane held in memory (plus those that came back to the front).
pub(super) const WINDOW_MAX: usize = 4_096;
/// A lane with fewer is refilled.
pub(super) const WINDOW_LOW: usize = 512;
/// Queued runs of one lane held in memory at most while there is a worker that can take none of
/// them.
pub(super) const LOOK_PAST_MAX: usize = 2 * WINDOW_MAX;

/// What workers are told apart by.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) workflow: String,
    pub(super) tags: Vec<String>,
    pub(super) avoid: Vec<String>,
    at: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    window: BTreeMap<u64, QueuedItem>,
    /// The same runs by what they need, in order.
    classes: Vec<Class>,
    /// All rows up to this sequence have been read (or were born in memory).
    pub(super) read_to: u64,
    /// Whether there are no rows behind `read_to`.
    pub(super) tail_in_memory: bool,
    pub(super) reading: bool,
    /// Rows were added behind `read_to` while a read was under way: its end is not the end.
    pub(super) grown: bool,
    /// Runs that came back to places behind `read_to` while a read was under way, which may have
    /// been too early to see them.
    pub(super) late: Vec<QueuedItem>,
}

impl Lane {
    /// A lane of which everything up to a sequence has been read, or was born in memory.
    pub(super) fn read_to(read_to: u64, tail_in_memory: bool) -> Self {
        Self { read_to, tail_in_memory, ..Self::default() }
    }

    pub(super) fn loaded(&mut self, last: Option<u64>, end: bool, next_sequence: u64) {
        self.reading = false;
        self.read_to = self.read_to.max(last.unwrap_or(0));
        if end && !self.grown {
            self.tail_in_memory = true;
            // Sequences are given in order: what comes later comes behind all that there is.
            self.read_to = self.read_to.max(next_sequence - 1);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.window.len()
    }

    /// Whether there is nothing in it, in memory or not.
    pub(super) fn is_deserted(&self) -> bool {
        self.tail_in_memory && self.window.is_empty()
    }

    /// Whether what is in memory tells nothing of where the lane begins.
    pub(super) fn is_unread(&self) -> bool {
        !self.tail_in_memory && self.window.is_empty()
    }

    /// Whether a run that is yet to be read may come before `position`. Beyond what is looked past,
    /// nobody looks.
    pub(super) fn may_hold_before(&self, position: Option<u64>) -> bool {
        !self.tail_in_memory
            && self.len() < LOOK_PAST_MAX
            && position.is_none_or(|position| self.read_to < position)
    }

    /// The first place in memory.
    pub(super) fn first(&self) -> Option<&QueuedItem> {
        self.window.values().next()
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &QueuedItem> {
        self.window.values()
    }

    pub(super) fn classes(&self) -> &[Class] {
        &self.classes
    }

    pub(super) fn insert(&mut self, item: QueuedItem) {
        let at = match self.class_of(&item) {
            Ok(at) => at,
            Err(at) => {
                let class = Class {
                    workflow: item.workflow.clone(),
                    tags: item.tags.clone(),
                    avoid: item.avoid.clone(),
                    at: BTreeSet::new(),
                };
                self.classes.insert(at, class);
                at
            }
        };
        self.classes[at].at.insert(item.sequence);
        self.window.insert(item.sequence, item);
    }

    pub(super) fn remove(&mut self, sequence: u64) -> Option<QueuedItem> {
        let item = self.window.remove(&sequence)?;
        if let Ok(at) = self.class_of(&item) {
            let class = &mut self.classes[at];
            class.at.remove(&sequence);
            if class.at.is_empty() {
                self.classes.remove(at);
            }
        }
        Some(item)
    }

    /// Takes up to `left` runs that came before `sequence` and are of a workflow that nobody knows.
    pub(super) fn take_out(
        &mut self,
        left: usize,
        sequence: u64,
        nobody_knows: impl Fn(&str) -> bool,
    ) -> Vec<QueuedItem> {
        let unregistered = self.classes.iter().filter(|c| nobody_knows(&c.workflow));
        let positions = unregistered.flat_map(|class| class.at.range(..sequence).copied());
        let positions: Vec<u64> = positions.take(left).collect();
        positions.into_iter().filter_map(|position| self.remove(position)).collect()
    }

    fn class_of(&self, item: &QueuedItem) -> Result<usize, usize> {
        let key = (&item.workflow, &item.tags, &item.avoid);
        self.classes
            .binary_search_by(|class| (&class.workflow, &class.tags, &class.avoid).cmp(&key))
    }

    /// The first place of a run that `session` can take.
    pub(super) fn first_for(&self, session: &Session) -> Option<u64> {
        let first = self.first()?;
        if session.can_run(first) {
            return Some(first.sequence);
        }
        let able = |class: &&Class| session.can_take(&class.workflow, &class.tags, &class.avoid);
        self.classes.iter().filter(able).filter_map(|class| class.at.first().copied()).min()
    }

    /// Panics if its parts contradict each other.
    #[cfg(any(test, feature = "inspect"))]
    pub(super) fn check(&self) {
        let last = self.window.keys().next_back().copied().unwrap_or(0);
        assert!(last <= self.read_to, "what waits in memory has been read");
        assert!(!(self.reading && self.tail_in_memory), "nothing is read behind the end");
        let classed: usize = self.classes.iter().map(|class| class.at.len()).sum();
        assert_eq!(classed, self.window.len(), "what waits is in one class");
        for item in self.window.values() {
            let class = self.class_of(item).map(|at| &self.classes[at]);
            assert!(
                class.is_ok_and(|class| class.at.contains(&item.sequence)),
                "run number {} is in its class",
                item.run
            );
        }
    }
}
