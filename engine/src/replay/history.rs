//! A run's entries on their way to the function: in order, without gaps, each once (W1).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::canary::canary;
use crate::model::chain::{self, CHAIN_BYTES};
use crate::model::entry::Entry;
use crate::model::id::RunId;
use crate::numbered::Undecodable;

/// An entry as it came: a live one comes without its chain.
#[derive(Debug)]
enum Early {
    Stored(Bytes),
    Told(Box<Entry>),
}

/// Entry number `index` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadableEntry {
    pub(crate) index: u32,
    pub(crate) cause: Undecodable,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    /// The index of the first entry that waits.
    next: u32,
    waiting: VecDeque<Entry>,
    early: BTreeMap<u32, Early>,
    /// The chain after the last entry, where it is known: entries told live come without theirs.
    chain: Option<u64>,
}

impl History {
    pub(crate) fn new(id: RunId) -> Self {
        Self {
            next: 0,
            waiting: VecDeque::new(),
            early: BTreeMap::new(),
            chain: Some(chain::root(id)),
        }
    }

    /// How many entries are known without a gap.
    pub(crate) fn seen(&self) -> u32 {
        self.next + self.waiting.len() as u32
    }

    /// The index of the entry that [`Self::take`] gives next.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// The entry of this index, if it waits.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.waiting.get_mut(index.checked_sub(self.next)? as usize)
    }

    /// Entries that wait, with their indexes.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (self.next..).zip(&self.waiting)
    }

    /// The next entry in order.
    pub(crate) fn take(&mut self) -> Option<(u32, Entry)> {
        let entry = self.waiting.pop_front()?;
        self.next += 1;
        Some((self.next - 1, entry))
    }

    /// Entries as stored, from index `from` on.
    pub(crate) fn stored(&mut self, from: u32, entries: Vec<Bytes>) -> Result<(), UnreadableEntry> {
        for (index, entry) in (from..).zip(entries) {
            self.add(index, Early::Stored(entry))?;
        }
        Ok(())
    }

    /// An entry as told live, without its chain.
    pub(crate) fn told(&mut self, index: u32, entry: Entry) -> Result<(), UnreadableEntry> {
        self.add(index, Early::Told(Box::new(entry)))
    }

    fn add(&mut self, index: u32, entry: Early) -> Result<(), UnreadableEntry> {
        let copy = index < self.seen() && canary!("a copy of an entry counts");
        if index != self.seen() && !copy {
            if index > self.seen() {
                self.early.entry(index).or_insert(entry);
            }
            return Ok(());
        }
        self.append(index, entry)?;
        while let Some(entry) = self.early.remove(&self.seen()) {
            self.append(self.seen(), entry)?;
        }
        Ok(())
    }

    fn append(&mut self, index: u32, entry: Early) -> Result<(), UnreadableEntry> {
        let entry = match entry {
            Early::Told(entry) => {
                self.chain = None;
                *entry
            }
            Early::Stored(bytes) => {
                let opened = match self.chain {
                    Some(previous) => chain::open(previous, &bytes),
                    None => adopt(&bytes),
                };
                let (entry, chain) = opened.map_err(|cause| UnreadableEntry { index, cause })?;
                self.chain = Some(chain);
                entry
            }
        };
        self.waiting.push_back(entry);
        Ok(())
    }
}

/// Reads a stored entry whose predecessor's chain is not known, and trusts its own.
fn adopt(stored: &[u8]) -> Result<(Entry, u64), Undecodable> {
    let (entry, chain) = stored.split_last_chunk::<CHAIN_BYTES>().ok_or(Undecodable::Empty)?;
    Ok((Entry::decode(entry)?, u64::from_le_bytes(*chain)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::TimerFired;
    use crate::model::id::CommandIndex;
    use crate::model::time::Time;

    fn fired(at: u64) -> Entry {
        TimerFired { at: Time(at), number: CommandIndex(0) }.into()
    }

    fn stored(count: u64) -> Vec<Bytes> {
        let mut chain = chain::root(RunId(7));
        let seal = |at| {
            let (bytes, next) = chain::sealed(chain, &fired(at));
            chain = next;
            bytes.into()
        };
        (0..count).map(seal).collect()
    }

    fn drain(history: &mut History) -> Vec<u32> {
        std::iter::from_fn(|| history.take())
            .map(|(index, entry)| {
                assert_eq!(entry, fired(u64::from(index)));
                index
            })
            .collect()
    }

    // W1: the network may repeat a frame, and a live entry may overtake the last page of a long
    // journal.
    #[test]
    fn copies_and_early_entries_change_nothing() {
        let mut history = History::new(RunId(7));
        history.stored(0, stored(4)[..2].to_vec()).unwrap();
        history.told(5, fired(5)).unwrap();
        history.told(4, fired(4)).unwrap();
        assert_eq!(history.seen(), 2);
        history.stored(0, stored(4)).unwrap();
        history.told(4, fired(99)).unwrap();
        assert_eq!(history.seen(), 6);
        assert_eq!(drain(&mut history), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_broken_chain_is_told_with_its_index() {
        let mut entries = stored(3);
        entries.remove(1);
        let unreadable = History::new(RunId(7)).stored(0, entries).unwrap_err();
        assert_eq!(unreadable.index, 1);
        assert_eq!(History::new(RunId(8)).stored(0, stored(1)).unwrap_err().index, 0);
    }

    #[test]
    fn after_a_live_entry_the_chain_is_taken_up_again() {
        let mut history = History::new(RunId(7));
        history.stored(0, stored(4)[..1].to_vec()).unwrap();
        history.told(1, fired(1)).unwrap();
        history.stored(2, stored(4)[2..3].to_vec()).unwrap();
        let mut damaged = stored(4)[3].to_vec();
        damaged[2] ^= 1;
        assert!(history.stored(3, vec![damaged.into()]).is_err());
    }
}
