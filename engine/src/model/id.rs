//! Identities. Each is a type of its own and prints with a prefix, so that one cannot be taken for
//! another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use twox_hash::XxHash3_128;

/// Digits of Crockford's base 32: no I, L, O, U.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The longest name a run may be given, in bytes.
pub const RUN_NAME_BYTES_MAX: usize = 256;

macro_rules! bytes16 {
    ($(#[$meta:meta])* $name:ident, $prefix:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                for digit in (0..26).rev() {
                    let index = (self.0 >> (digit * 5)) & 31;
                    fmt::Write::write_char(f, char::from(BASE32[index as usize]))?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let not = || NotAnId { text: text.to_owned(), prefix: $prefix };
                let digits = text.strip_prefix($prefix).ok_or_else(not)?;
                if digits.len() != 26 {
                    return Err(not());
                }
                digits.bytes().try_fold(0u128, |value, digit| {
                    let index = BASE32.iter().position(|&d| d == digit).ok_or_else(not)?;
                    if value >> 123 != 0 {
                        return Err(not());
                    }
                    Ok(value << 5 | index as u128)
                }).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0.to_be_bytes())
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    return String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom);
                }
                let bytes = bytes::Bytes::deserialize(deserializer)?;
                let array = <[u8; 16]>::try_from(bytes.as_ref()).map_err(|_| {
                    serde::de::Error::invalid_length(bytes.len(), &"16 bytes")
                })?;
                Ok(Self(u128::from_be_bytes(array)))
            }
        }
    };
}

bytes16! {
    /// Identifies a run: 128 bits, printed `run_` and 26 digits.
    ///
    /// A run that was given a name gets the XXH3-128 hash of its namespace and name, so that
    /// starting it twice finds the first one; the name itself is kept in the run and compared. A
    /// run without a name gets random bits.
    RunId, "run_"
}

bytes16! {
    /// A worker or client process from its start to its end. A restarted process has another one.
    ProcessInstance, "inc_"
}

bytes16! {
    /// Identifies one request of a client or operator across its retries.
    RequestId, "cmd_"
}

bytes16! {
    /// The key of a memoized step, whatever the run: see
    /// [`Ctx::memoize`](crate::Ctx::memoize).
    MemoKey, "once_"
}

impl MemoKey {
    /// The XXH3-128 hash of a namespace and a key.
    pub fn of(namespace: Namespace, key: &str) -> Self {
        let mut bytes = Vec::with_capacity(4 + key.len());
        bytes.extend_from_slice(&namespace.0.to_be_bytes());
        bytes.extend_from_slice(key.as_bytes());
        Self(XxHash3_128::oneshot(&bytes))
    }
}

impl RunId {
    /// The id of the run called `name` in `namespace`.
    pub fn from_name(namespace: Namespace, name: &str) -> Self {
        let mut bytes = Vec::with_capacity(4 + name.len());
        bytes.extend_from_slice(&namespace.0.to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
        Self(XxHash3_128::oneshot(&bytes))
    }

    /// What a person typed: an id as printed, or else the name of a run.
    pub fn from_id_or_name(namespace: Namespace, text: &str) -> Self {
        text.parse().unwrap_or_else(|_| Self::from_name(namespace, text))
    }
}

/// Text that is not an id of the wanted sort.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id: expected `{prefix}` and 26 digits of base 32")]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct NotAnId {
    text: String,
    prefix: &'static str,
}

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A tenant's own space of run names. 0 is the default one.
    Namespace(u32)
}
number! {
    /// A run's place in the order of starts within its shard: short, dense, and the key of its
    /// journal.
    RunNo(u64)
}
number! {
    /// The index of a command (step or timer) within its run, counted from 0 in the order in which
    /// the code asks.
    CommandIndex(u32)
}
number! {
    /// One connection's worth of a worker or client, as the engine counts them.
    SessionId(u64)
}
number! {
    /// Counts the leases of one epoch.
    LeaseNo(u64)
}

impl CommandIndex {
    /// The function of a workflow itself, seen as one step.
    pub const FUNCTION: Self = Self(u32::MAX);
}

/// The fencing token of a lease. A report counts only if its token *equals* the run's current one.
///
/// `store` tells a store from its restored copy, `epoch` one opening of the store from the next,
/// `lease` one lease from the next. Within a store, tokens only rise.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub struct Token {
    /// The store that issued it.
    pub store: u64,
    /// Which opening of it.
    pub epoch: u64,
    /// The lease within that opening.
    pub lease: LeaseNo,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse() {
        for value in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677] {
            let id = RunId(value);
            assert_eq!(id.to_string().len(), 30);
            assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        }
        assert!("run_".parse::<RunId>().is_err());
        assert!("run_zzzzzzzzzzzzzzzzzzzzzzzzzz".parse::<RunId>().is_err());
        assert!("cmd_00000000000000000000000000".parse::<RunId>().is_err());
    }

    #[test]
    fn a_name_has_one_id_in_a_namespace() {
        assert_eq!(
            RunId::from_name(Namespace(0), "order-17"),
            RunId::from_name(Namespace(0), "order-17")
        );
        assert_ne!(
            RunId::from_name(Namespace(0), "order-17"),
            RunId::from_name(Namespace(1), "order-17")
        );
    }
}
