//! What users put in and get out: bytes behind a codec number.
//!
//! The engine passes payloads through undecoded. The SDK writes MessagePack with field names and in
//! the human-readable form, so that a payload turns into JSON and back without knowing its type,
//! and a field may be added later.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// MessagePack, structs as maps, human-readable forms.
pub const CODEC_MESSAGEPACK: u8 = 1;

/// A codec byte and the encoded value.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Payload(pub Bytes);

/// A type's name without the modules that it and its parts are in: `Vec<String>`.
fn short(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    for part in name.split("::") {
        // What stands before is a module, behind what the type's other parts end with.
        let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
        short.truncate(short.trim_end_matches(is_of_name).len());
        short.push_str(part);
    }
    short
}

/// A value that does not become a payload, or a payload that does not become the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(feature = "inspect"), non_exhaustive)]
pub enum PayloadError {
    /// The value's type refuses to serialize.
    #[error("the value does not serialize: {cause}")]
    Encode {
        /// What the serializer said.
        cause: String,
    },
    /// The bytes do not hold the wanted type.
    #[error("the payload ({len} bytes) does not decode as `{}`: {cause}", short(wanted))]
    Decode {
        /// Length of the payload.
        len: usize,
        /// The wanted Rust type.
        wanted: &'static str,
        /// What the deserializer said.
        cause: String,
    },
    /// A codec this version does not know.
    #[error("the payload's codec {codec} is not known to this version")]
    Codec {
        /// The codec byte.
        codec: u8,
    },
}

impl Payload {
    /// Encodes a value.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, PayloadError> {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(CODEC_MESSAGEPACK);
        let mut serializer =
            rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
        value
            .serialize(&mut serializer)
            .map_err(|e| PayloadError::Encode { cause: e.to_string() })?;
        Ok(Self(bytes.into()))
    }

    /// Decodes the value.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        let wanted = std::any::type_name::<T>();
        let body = match self.0.split_first() {
            Some((&CODEC_MESSAGEPACK, body)) => body,
            Some((&codec, _)) => return Err(PayloadError::Codec { codec }),
            None => {
                return Err(PayloadError::Decode {
                    len: 0,
                    wanted,
                    cause: "it is empty".to_owned(),
                });
            }
        };
        let mut decoder = rmp_serde::Deserializer::from_read_ref(body).with_human_readable();
        T::deserialize(&mut decoder).map_err(|e| PayloadError::Decode {
            len: self.0.len(),
            wanted,
            cause: e.to_string(),
        })
    }

    /// The value as JSON, for people and for programs of other languages.
    pub fn to_json(&self) -> Result<serde_json::Value, PayloadError> {
        self.to().map(|super::json::Json(value)| value)
    }

    /// The payload that `value` stands for: decoding it gives what decoding the JSON would.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, PayloadError> {
        Self::of(value)
    }

    /// Length in bytes, the codec byte included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing at all, not even a codec byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.to_json() {
            Ok(json) => write!(f, "{json}"),
            Err(_) => write!(f, "<{} bytes>", self.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn types_are_named_without_their_modules() {
        assert_eq!(short(std::any::type_name::<u64>()), "u64");
        assert_eq!(short(std::any::type_name::<String>()), "String");
        let nested = std::any::type_name::<Vec<(String, Option<&str>)>>();
        assert_eq!(short(nested), "Vec<(String, Option<&str>)>");
    }
}
