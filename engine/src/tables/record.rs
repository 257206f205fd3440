//! What is stored under keys: nearly always one positional MessagePack record.

use std::fmt::Debug;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::numbered::{Undecodable, decode_fields, encode_fields};

/// What a row holds: a [`Record`], or one of the few other things that are stored.
pub trait TableValue: Debug + Clone + PartialEq + Send + 'static {
    /// The stored value.
    fn to_value(&self) -> Bytes;

    /// Reads what `to_value` wrote.
    fn from_value(value: &Bytes) -> Result<Self, Undecodable>;
}

/// A stored record: positional MessagePack.
pub trait Record:
    Serialize + DeserializeOwned + Debug + Clone + PartialEq + Send + 'static
{
    /// Its name in messages.
    const WHAT: &'static str;

    /// Its bytes.
    fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(64);
        encode_fields(self, &mut bytes);
        bytes.into()
    }

    /// Reads what `to_bytes` wrote.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Undecodable> {
        decode_fields(Self::WHAT, bytes)
    }
}

impl<R: Record> TableValue for R {
    fn to_value(&self) -> Bytes {
        self.to_bytes()
    }

    fn from_value(value: &Bytes) -> Result<Self, Undecodable> {
        R::from_bytes(value)
    }
}

/// The value of a row whose key says everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty;

impl TableValue for Empty {
    fn to_value(&self) -> Bytes {
        Bytes::new()
    }

    /// A later version may write something there; it is not looked at.
    fn from_value(_: &Bytes) -> Result<Self, Undecodable> {
        Ok(Self)
    }
}
