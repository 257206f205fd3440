//! What users put in comes out, through our bytes and through JSON, both ways.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stepwell::model::payload::{Payload, PayloadError};

/// Through our bytes; and through JSON in both directions, against what serde_json makes of the
/// same value.
fn round_trips<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let payload = Payload::of(value).unwrap();
    assert_eq!(&payload.to::<T>().unwrap(), value, "our bytes");
    let json = serde_json::to_value(value).unwrap();
    assert_eq!(payload.to_json().unwrap(), json, "what people see");
    let typed = Payload::from_json(&json).unwrap();
    assert_eq!(&typed.to::<T>().unwrap(), value, "what people type");
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(u64),
    Tuple(u8, String),
    Struct { a: Option<i32>, b: Vec<Shape> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value")]
enum Adjacent {
    Nothing,
    One(u64),
    Two { left: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Internal {
    Nothing,
    Some { left: u64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Text(String),
    Pair { left: u64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wrapper(u64);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Marker;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    order_id: uuid::Uuid,
    cents: u64,
    #[serde(flatten)]
    rest: BTreeMap<String, String>,
}

#[test]
fn numbers_keep_their_ends() {
    for value in [0u64, 127, 128, 255, 256, u64::from(u32::MAX), u64::MAX] {
        round_trips(&value);
    }
    for value in [i64::MIN, -1, 0, i64::MAX] {
        round_trips(&value);
    }
    for value in [0.5f64, -0.0, f64::MAX, f64::MIN_POSITIVE, 1e-310] {
        round_trips(&value);
    }
    round_trips(&(u8::MAX, i8::MIN, u32::MAX, 'ß', true, ()));
}

#[test]
fn options_and_texts() {
    round_trips(&Some(7u8));
    round_trips(&None::<u8>);
    round_trips(&vec![Some(String::new()), None, Some("ä\u{0}\n\"".to_owned())]);
    round_trips(&Wrapper(9));
    // A unit struct is an empty array to us and a null in JSON; either is understood.
    assert_eq!(Payload::of(&Marker).unwrap().to::<Marker>().unwrap(), Marker);
    assert_eq!(
        Payload::from_json(&serde_json::Value::Null).unwrap().to::<Marker>().unwrap(),
        Marker
    );
}

#[test]
fn enums_of_all_shapes() {
    let nested = vec![Shape::Unit, Shape::Newtype(u64::MAX), Shape::Tuple(1, "x".into())];
    for shape in [
        Shape::Unit,
        Shape::Newtype(1),
        Shape::Tuple(2, "y".into()),
        Shape::Struct { a: None, b: nested },
    ] {
        round_trips(&shape);
        round_trips(&Some(shape));
    }
    for value in [Adjacent::Nothing, Adjacent::One(u64::MAX), Adjacent::Two { left: "l".into() }] {
        round_trips(&value);
    }
    for value in [Internal::Nothing, Internal::Some { left: u64::MAX }] {
        round_trips(&value);
    }
    for value in
        [Untagged::Number(u64::MAX), Untagged::Text("t".into()), Untagged::Pair { left: 1 }]
    {
        round_trips(&value);
    }
    round_trips(&Ok::<u8, String>(1));
    round_trips(&Err::<u8, String>("no".into()));
}

#[test]
fn ids_and_times() {
    let id = uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
    round_trips(&id);
    assert_eq!(Payload::of(&id).unwrap().to_json().unwrap(), serde_json::json!(id.to_string()));
    round_trips(&(UNIX_EPOCH + Duration::from_millis(1_709_210_096_789)));
    round_trips(&Duration::new(u64::MAX, 999_999_999));
    let _: SystemTime = Payload::of(&UNIX_EPOCH).unwrap().to().unwrap();
    round_trips(&stepwell::model::time::Time(1_709_210_096_789));
    round_trips(&stepwell::RunId(u128::MAX));
    let rest = BTreeMap::from([("note".to_owned(), "x".to_owned())]);
    round_trips(&Order { order_id: id, cents: u64::MAX, rest });
}

#[test]
fn bytes_and_maps() {
    round_trips(&vec![0u8, 127, 128, 255]);
    round_trips(&Bytes::from_static(&[0, 127, 128, 255]));
    round_trips(&BTreeMap::from([("a".to_owned(), vec![1u64]), (String::new(), vec![])]));
}

/// JSON knows only texts as keys, and people see them as texts.
#[test]
fn numbers_as_keys_are_shown_as_texts() {
    let value = BTreeMap::from([(7u64, "seven".to_owned())]);
    let payload = Payload::of(&value).unwrap();
    assert_eq!(payload.to::<BTreeMap<u64, String>>().unwrap(), value);
    assert_eq!(payload.to_json().unwrap(), serde_json::json!({ "7": "seven" }));
}

// A run may have been started, or a step recorded, by older code.
#[test]
fn a_field_may_be_added_and_another_left_out() {
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Old {
        id: u64,
        gone: String,
    }
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct New {
        id: u64,
        #[serde(default)]
        note: Option<String>,
        #[serde(default = "five")]
        priority: u8,
    }
    fn five() -> u8 {
        5
    }
    let old = Payload::of(&Old { id: u64::MAX, gone: "x".into() }).unwrap();
    assert_eq!(old.to::<New>().unwrap(), New { id: u64::MAX, note: None, priority: 5 });
    let swapped = Payload::from_json(&serde_json::json!({ "priority": 1, "id": 2 })).unwrap();
    assert_eq!(swapped.to::<New>().unwrap(), New { id: 2, note: None, priority: 1 });
}

#[test]
fn what_does_not_fit_is_told() {
    let payload = Payload::of("word").unwrap();
    let told = payload.to::<u64>().unwrap_err().to_string();
    assert!(told.starts_with("the payload (6 bytes) does not decode as `u64`: "), "{told}");
    assert_eq!(
        Payload(Bytes::from_static(&[9, 1])).to::<u8>(),
        Err(PayloadError::Codec { codec: 9 })
    );
    assert!(Payload::default().to::<u8>().is_err());
}

proptest! {
    #[test]
    fn any_value_round_trips(
        value in any::<(u64, i64, String, Option<Vec<(u8, String)>>, BTreeMap<String, i32>, Vec<u8>, char)>(),
        float in proptest::num::f64::NORMAL,
    ) {
        round_trips(&value);
        round_trips(&float);
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let payload = Payload(bytes.into());
        let _ = payload.to_json();
        let _ = payload.to::<Order>();
        let _ = payload.to::<Shape>();
        let _ = format!("{payload:?}");
    }
}
