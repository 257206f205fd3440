//! Tagged records with explicit numbers.
//!
//! Stored records and frames are a kind number followed by the fields in order (MessagePack,
//! positional). A number never changes its meaning and is never used again; a field is only ever
//! added at the end, with `#[serde(default)]`, so that old bytes still decode. It is always
//! written: one that is left out would hand its place to the next. Elements beyond those that this
//! version knows are skipped at every depth (`lenient.rs`), so that the bytes of a later version
//! decode, too. Serde's own enum encoding would store variant *names*, which makes renaming a
//! variant a change of format.

use crate::lenient;

/// Why bytes that should hold one of our records do not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum Undecodable {
    /// There is not even a kind number.
    #[error("the record is empty")]
    Empty,
    /// A kind number this version does not know.
    #[error("kind {kind} of {what} is not known to this version")]
    UnknownKind {
        /// What was being decoded.
        what: &'static str,
        /// The number found.
        kind: u8,
    },
    /// The fields do not have the shape their kind says.
    #[error("a {what} does not decode: {cause}")]
    Fields {
        /// What was being decoded.
        what: &'static str,
        /// What the decoder said.
        cause: String,
    },
    /// The record's checksum or chain does not match its bytes.
    #[error("{what} is damaged: {cause}")]
    Damaged {
        /// What was being decoded.
        what: &'static str,
        /// What disagrees.
        cause: String,
    },
}

/// Encodes the fields of one record, positionally.
pub(crate) fn encode_fields<T: serde::Serialize>(fields: &T, into: &mut Vec<u8>) {
    // Writing plain data to a Vec cannot fail; a type that refuses to serialize would be ours
    // alone.
    assert!(written(fields, into).is_ok(), "our own records serialize");
}

/// Decodes the fields of one record. What comes after them is a later version's, and is not looked
/// at.
pub(crate) fn decode_fields<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, Undecodable> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    lenient::deserialize(&mut decoder)
        .map_err(|e| Undecodable::Fields { what, cause: e.to_string() })
}

fn written<T: serde::Serialize>(
    fields: &T,
    into: &mut Vec<u8>,
) -> Result<(), rmp_serde::encode::Error> {
    #[cfg(any(test, feature = "inspect"))]
    if later::is_written() {
        return rmp_serde::encode::write(into, &lenient::longer::Longer(fields));
    }
    rmp_serde::encode::write(into, fields)
}

/// Writing as a later version would, with one field more in everything: how it is shown that this
/// version reads what a later one writes.
#[cfg(any(test, feature = "inspect"))]
pub(crate) mod later {
    use std::cell::Cell;

    thread_local! {
        static IS_WRITTEN: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn is_written() -> bool {
        IS_WRITTEN.get()
    }

    /// Encodes what `encode` encodes, at every depth, as a later version would.
    pub(crate) fn write<T>(encode: impl FnOnce() -> T) -> T {
        let before = IS_WRITTEN.replace(true);
        let done = encode();
        IS_WRITTEN.set(before);
        done
    }
}

/// Decodes a byte string in place.
pub(crate) struct InBytes<F>(pub(crate) F);

impl<T, F> serde::de::Visitor<'_> for InBytes<F>
where
    F: FnOnce(&[u8]) -> Result<T, Undecodable>,
{
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a byte string that holds a record")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<T, E> {
        (self.0)(bytes).map_err(E::custom)
    }
}

/// Declares an enum of record types with explicit kind numbers, its encoding, and serde impls that
/// carry it as a byte string (so that it may be nested in other records). `if` says in which builds
/// there is a record. `; else` names the record that stands for kinds of a later version, where one
/// that is not known must not make what it is in unreadable.
macro_rules! numbered {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[$vmeta:meta])* $number:literal => $variant:ident $(if $cfg:meta)?),+ $(,)?
        $(; else $other:ident)?
    }) => {
        $(#[$meta])*
        $vis enum $name { $($(#[cfg($cfg)])? $(#[$vmeta])* $variant($variant)),+ }

        impl $name {
            /// Every kind number with the name of its record, in order.
            pub const KINDS: &'static [(u8, &'static str)] = &[$($(#[cfg($cfg)])? ($number, stringify!($variant))),+];

            /// The kind number.
            pub fn kind(&self) -> u8 {
                match self { $($(#[cfg($cfg)])? Self::$variant(_) => $number),+ }
            }

            /// The name of the record.
            pub fn kind_name(&self) -> &'static str {
                match self { $($(#[cfg($cfg)])? Self::$variant(_) => stringify!($variant)),+ }
            }

            /// Appends the kind number and the fields.
            pub fn encode_into(&self, into: &mut Vec<u8>) {
                into.push(self.kind());
                match self {
                    $($(#[cfg($cfg)])? Self::$variant(fields) => $crate::numbered::encode_fields(fields, into)),+
                }
            }

            /// The kind number and the fields as bytes.
            pub fn encode(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(96);
                self.encode_into(&mut bytes);
                bytes
            }

            /// Reads what `encode` wrote. Errors: [`Undecodable`]($crate::numbered::Undecodable);
            /// never panics.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::numbered::Undecodable> {
                let (&kind, fields) = bytes.split_first().ok_or($crate::numbered::Undecodable::Empty)?;
                match kind {
                    $($(#[cfg($cfg)])? $number => $crate::numbered::decode_fields(stringify!($variant), fields).map(Self::$variant),)+
                    _ => $crate::numbered::numbered!(@unknown $name kind $($other)?),
                }
            }
        }

        $($(#[cfg($cfg)])? impl From<$variant> for $name {
            fn from(record: $variant) -> Self { Self::$variant(record) }
        })+

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.encode())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_bytes($crate::numbered::InBytes(|bytes: &[u8]| Self::decode(bytes)))
            }
        }
    };
    (@unknown $name:ident $kind:ident) => {
        Err($crate::numbered::Undecodable::UnknownKind { what: stringify!($name), kind: $kind })
    };
    (@unknown $name:ident $kind:ident $other:ident) => {
        Ok(Self::$other($other { number: $kind }))
    };
}
pub(crate) use numbered;
