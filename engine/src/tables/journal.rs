//! Journal rows: an entry is one row, or several if it is long.
//!
//! The store keeps values short, so a long entry is cut. Its first row says how long the whole is;
//! the parts behind it are written *before* it, so that a first row means that all are there, even
//! if they went in several batches. Parts that an entry of the same number left behind when the
//! power went are overwritten or, behind the announced length, not looked at.
//!
//! ```text
//!   row 0:  0 ++ entry                            (short)
//!   row 0:  1 ++ length (4 bytes LE) ++ part      (long)
//!   row n:  part
//! ```

use bytes::{Buf, Bytes};
use stepwell_storage::Space;

pub use super::JournalKey;
use super::TableValue;
use crate::model::id::RunNo;
use crate::numbered::Undecodable;

/// The longest part, in bytes: with its key it stays below the store's value limit.
pub const PART_BYTES: usize = 3_400;

/// The value of a row: an entry with its form before it, or a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow(pub Bytes);

impl TableValue for JournalRow {
    fn to_value(&self) -> Bytes {
        self.0.clone()
    }

    fn from_value(value: &Bytes) -> Result<Self, Undecodable> {
        Ok(Self(value.clone()))
    }
}

/// The space of the journals of a generation.
pub fn space(generation: u32) -> Space {
    Space::Generation(generation)
}

impl JournalKey {
    /// The key of the first row of an entry, before its parts.
    pub fn first(run: RunNo, entry: u32) -> Self {
        Self { run, entry, part: 0 }
    }
}

/// The rows of a stored entry, in the order in which they must be written: the first row last.
pub fn rows(
    run: RunNo,
    entry: u32,
    stored: Vec<u8>,
) -> impl Iterator<Item = (JournalKey, JournalRow)> {
    let long = stored.len() >= PART_BYTES;
    let mut head = Vec::with_capacity(5);
    if long {
        head.push(1);
        head.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    } else {
        head.push(0);
    }
    let (first, rest): (Bytes, Bytes) = if long {
        let mut all = Bytes::from(stored);
        let part = all.split_to(PART_BYTES - 5);
        ([head.as_slice(), &part].concat().into(), all)
    } else {
        let mut bytes = stored;
        bytes.insert(0, 0);
        (bytes.into(), Bytes::new())
    };
    let parts = rest.len().div_ceil(PART_BYTES);
    (1..=parts)
        .map(move |part| {
            let from = (part - 1) * PART_BYTES;
            let to = (from + PART_BYTES).min(rest.len());
            (JournalKey { run, entry, part: part as u16 }, JournalRow(rest.slice(from..to)))
        })
        .chain(std::iter::once((JournalKey::first(run, entry), JournalRow(first))))
}

/// Joins rows, in key order, to stored entries of one run.
#[derive(Debug, Default)]
pub struct Joiner {
    next: u32,
    pending: Option<(usize, Vec<u8>, u16)>,
}

impl Joiner {
    /// A joiner whose first entry has number `from`.
    pub fn from(from: u32) -> Self {
        Self { next: from, pending: None }
    }

    /// The number of the entry that is to come or being joined.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Whether the last row was the end of an entry.
    pub fn is_whole(&self) -> bool {
        self.pending.is_none()
    }

    /// Takes a row; gives the entry it completes.
    pub fn push(
        &mut self,
        key: &JournalKey,
        row: JournalRow,
    ) -> Result<Option<Bytes>, Undecodable> {
        let damaged = |cause: String| Undecodable::Damaged { what: "a journal", cause };
        let JournalKey { entry, part, .. } = *key;
        if let Some((_, bytes, next_part)) = &mut self.pending {
            if entry != self.next || part != *next_part {
                return Err(damaged(format!("part {next_part} of entry {} is missing", self.next)));
            }
            bytes.extend_from_slice(&row.0);
            *next_part = next_part
                .checked_add(1)
                .ok_or_else(|| damaged(format!("entry {entry} has no end")))?;
            return self.finish_if_whole();
        }
        if part != 0 && entry.checked_add(1) == Some(self.next) {
            return Ok(None); // left behind by a longer entry that never became whole
        }
        if part != 0 && entry == self.next {
            return Ok(None); // parts of an entry whose first row never came
        }
        if entry != self.next || part != 0 {
            return Err(damaged(format!("entry {} is missing, entry {entry} follows", self.next)));
        }
        if entry == u32::MAX {
            return Err(damaged(format!("entry {entry} is more than a journal can hold")));
        }
        let JournalRow(mut value) = row;
        match value.first() {
            Some(0) => {
                value.advance(1);
                self.next += 1;
                Ok(Some(value))
            }
            Some(1) if value.len() >= 5 => {
                let length = u32::from_le_bytes([value[1], value[2], value[3], value[4]]) as usize;
                self.pending = Some((length, value[5..].to_vec(), 1));
                self.finish_if_whole()
            }
            _ => Err(damaged(format!("entry {entry} begins with an unknown form"))),
        }
    }

    fn finish_if_whole(&mut self) -> Result<Option<Bytes>, Undecodable> {
        let Some((length, mut bytes, part)) = self.pending.take() else {
            return Ok(None);
        };
        if bytes.len() < length {
            self.pending = Some((length, bytes, part));
            return Ok(None);
        }
        // A shorter last part never exceeds the announced length unless the bytes are damaged.
        if bytes.len() > length {
            bytes.truncate(length);
        }
        self.next += 1;
        Ok(Some(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_any_length_survive_cutting_and_joining() {
        let lengths = [
            0,
            1,
            PART_BYTES - 6,
            PART_BYTES - 1,
            PART_BYTES,
            PART_BYTES + 1,
            3 * PART_BYTES - 5,
            100_000,
        ];
        let mut rows_found = Vec::new();
        for (entry, length) in lengths.iter().enumerate() {
            let stored: Vec<u8> = (0..*length).map(|i| (i % 251) as u8).collect();
            rows_found.extend(rows(RunNo(1), entry as u32, stored));
        }
        rows_found.sort_by_key(|(key, _)| *key);
        let mut joiner = Joiner::default();
        let joined =
            rows_found.iter().filter_map(|(key, row)| joiner.push(key, row.clone()).unwrap());
        let found: Vec<usize> = joined.map(|entry| entry.len()).collect();
        assert_eq!(found, lengths);
        assert!(joiner.is_whole());
    }

    #[test]
    fn a_missing_entry_is_found() {
        let all: Vec<_> = (0..3).flat_map(|entry| rows(RunNo(1), entry, vec![1])).collect();
        let mut joiner = Joiner::default();
        let mut push = |at: usize| joiner.push(&all[at].0, all[at].1.clone());
        assert!(push(0).is_ok());
        assert!(push(2).is_err());
    }
}
