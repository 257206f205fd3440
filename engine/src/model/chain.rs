//! The chain over a run's journal: each stored entry ends with a hash of itself and of the chain
//! before it.
//!
//! ```text
//!   stored entry n:  kind, fields …, chain(n) as 8 bytes, little endian
//!   chain(n)      =  XXH3-64( chain(n - 1) as 8 bytes, little endian ++ kind, fields … )
//!   chain(-1)     =  the low 64 bits of the run's id
//! ```
//!
//! A changed byte, a missing, a swapped or a foreign entry breaks the chain from there on. It
//! guards against damage, not against forgers.

use twox_hash::XxHash3_64;

use super::entry::Entry;
use super::id::RunId;
use crate::canary::canary;
use crate::numbered::Undecodable;

/// Bytes the chain adds to each stored entry.
pub const CHAIN_BYTES: usize = 8;

/// The chain before entry 0 of a run.
pub fn root(id: RunId) -> u64 {
    id.0 as u64
}

/// The chain after `entry` (as [`Entry::encode`] wrote it), when it was `previous` before it.
pub fn seal(previous: u64, entry: &[u8]) -> u64 {
    // One buffer on the stack for the common small entry: the one-shot hash is several times faster
    // than streaming.
    let mut small = [0u8; 512];
    let length = CHAIN_BYTES + entry.len();
    if let Some(joined) = small.get_mut(..length) {
        joined[..CHAIN_BYTES].copy_from_slice(&previous.to_le_bytes());
        joined[CHAIN_BYTES..].copy_from_slice(entry);
        return XxHash3_64::oneshot(joined);
    }
    let mut joined = Vec::with_capacity(length);
    joined.extend_from_slice(&previous.to_le_bytes());
    joined.extend_from_slice(entry);
    XxHash3_64::oneshot(&joined)
}

/// `entry` as it is stored after an entry whose chain is `previous`, and its own chain.
pub fn sealed(previous: u64, entry: &Entry) -> (Vec<u8>, u64) {
    let mut bytes = entry.encode();
    let chain = seal(previous, &bytes);
    bytes.extend_from_slice(&chain.to_le_bytes());
    (bytes, chain)
}

/// Reads a stored entry that follows an entry whose chain is `previous`, and tells its own chain.
///
/// Errors: [`Undecodable::Damaged`] if the chain does not match the bytes, and those of
/// [`Entry::decode`].
pub fn open(previous: u64, stored: &[u8]) -> Result<(Entry, u64), Undecodable> {
    let Some((entry, found)) = stored.split_last_chunk::<CHAIN_BYTES>() else {
        return Err(Undecodable::Empty);
    };
    let (found, chain) = (u64::from_le_bytes(*found), seal(previous, entry));
    if found != chain && !canary!("the chain is not checked") {
        return Err(Undecodable::Damaged {
            what: "a journal entry",
            cause: format!(
                "its chain is {found:016x}, its bytes and the entries before it give {chain:016x}"
            ),
        });
    }
    Ok((Entry::decode(entry)?, chain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::{Cancelled, Completed, TimerFired};
    use crate::model::id::CommandIndex;
    use crate::model::payload::Payload;
    use crate::model::time::Time;

    fn fired(at: u64) -> Entry {
        TimerFired { at: Time(at), number: CommandIndex(0) }.into()
    }

    #[test]
    fn a_journal_opens_in_its_order_only() {
        let (first, chain) = sealed(root(RunId(7)), &fired(1));
        let (second, last) = sealed(chain, &Cancelled { at: Time(2) }.into());
        assert_eq!(open(root(RunId(7)), &first).unwrap(), (fired(1), chain));
        assert_eq!(open(chain, &second).unwrap().1, last);
        assert!(matches!(open(root(RunId(7)), &second), Err(Undecodable::Damaged { .. })));
        assert!(matches!(open(root(RunId(8)), &first), Err(Undecodable::Damaged { .. })));
    }

    #[test]
    fn any_changed_bit_is_found() {
        let (stored, _) = sealed(3, &fired(1_000));
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(3, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..stored.len() {
            assert!(open(3, &stored[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn small_and_large_entries_hash_alike() {
        for length in [0, 1, 503, 504, 505, 4_000] {
            let entry = vec![7u8; length];
            let joined: Vec<u8> =
                9u64.to_le_bytes().into_iter().chain(entry.iter().copied()).collect();
            assert_eq!(seal(9, &entry), XxHash3_64::oneshot(&joined), "length {length}");
        }
    }

    #[test]
    fn golden_chain() {
        let entry = Completed { at: Time(1_000), output: Payload::of(&17).unwrap() }.into();
        assert_eq!(format!("{:016x}", sealed(root(RunId(1)), &entry).1), "6626cbe513c80c50");
    }
}
