//! Decoding that skips what it does not know: elements beyond those a type has, at every depth.
//!
//! Records and frames are arrays, and fields are only added at their ends. A reader of an older
//! version meets arrays that are longer than its types. `rmp_serde` refuses them; this adapter
//! around its deserializer (or any other) reads the elements it knows and passes over the rest.
//! Missing elements are the other half, and are the types' own matter: `#[serde(default)]`.
//!
//! Only arrays with a fixed number of elements (structs, tuples) can be too long: a `Vec` takes as
//! many as there are.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

/// Reads a value, and skips what its types have no place for.
pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(Lenient(deserializer))
}

/// Wraps a deserializer, a visitor, a seed or an access; each hands on wrapped ones.
struct Lenient<T>(T);

macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*)),+ $(,)?) => {
        $(
            fn $name<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
                self.0.$name($($argument,)* Lenient(visitor))
            }
        )+
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Lenient<D> {
    type Error = D::Error;

    forward! {
        deserialize_any(), deserialize_bool(), deserialize_i8(), deserialize_i16(), deserialize_i32(),
        deserialize_i64(), deserialize_i128(), deserialize_u8(), deserialize_u16(), deserialize_u32(),
        deserialize_u64(), deserialize_u128(), deserialize_f32(), deserialize_f64(), deserialize_char(),
        deserialize_str(), deserialize_string(), deserialize_bytes(), deserialize_byte_buf(),
        deserialize_option(), deserialize_unit(), deserialize_unit_struct(name: &'static str),
        deserialize_newtype_struct(name: &'static str), deserialize_seq(),
        deserialize_tuple(length: usize),
        deserialize_tuple_struct(name: &'static str, length: usize), deserialize_map(),
        deserialize_struct(name: &'static str, fields: &'static [&'static str]),
        deserialize_enum(name: &'static str, variants: &'static [&'static str]),
        deserialize_identifier(), deserialize_ignored_any(),
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! visit {
    ($($name:ident($type:ty)),+ $(,)?) => {
        $(
            fn $name<E: Error>(self, value: $type) -> Result<V::Value, E> {
                self.0.$name(value)
            }
        )+
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Lenient<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    visit! {
        visit_bool(bool), visit_i8(i8), visit_i16(i16), visit_i32(i32), visit_i64(i64),
        visit_i128(i128), visit_u8(u8), visit_u16(u16), visit_u32(u32), visit_u64(u64),
        visit_u128(u128), visit_f32(f32), visit_f64(f64), visit_char(char), visit_str(&str),
        visit_borrowed_str(&'de str), visit_string(String), visit_bytes(&[u8]),
        visit_borrowed_bytes(&'de [u8]), visit_byte_buf(Vec<u8>),
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Lenient(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Lenient(inner))
    }

    /// The one place that differs: what is left of the array is read and dropped.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<V::Value, A::Error> {
        let value = self.0.visit_seq(Lenient(&mut seq))?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(value)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Lenient(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Lenient(data))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Lenient<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Lenient(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Lenient<&mut A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Lenient(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Lenient<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Lenient(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Lenient(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Lenient<A> {
    type Error = A::Error;
    type Variant = Lenient<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.0.variant_seed(Lenient(seed))?;
        Ok((value, Lenient(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Lenient<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Lenient(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(length, Lenient(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Lenient(visitor))
    }
}

/// Encoding with one element too many in every struct and tuple, at every depth: what a version
/// writes that has added a field everywhere.
#[cfg(any(test, feature = "inspect"))]
pub(crate) mod longer {
    use serde::ser::{
        Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple,
        SerializeTupleStruct, Serializer,
    };

    /// Wraps a serializer or a value.
    pub(crate) struct Longer<T>(pub(crate) T);

    impl<T: Serialize> Serialize for Longer<&T>
    where
        T: ?Sized,
    {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(Longer(serializer))
        }
    }

    macro_rules! plain {
        ($($name:ident($($argument:ident: $type:ty),*)),+ $(,)?) => {
            $(
                fn $name(self, $($argument: $type),*) -> Result<S::Ok, S::Error> {
                    self.0.$name($($argument),*)
                }
            )+
        };
    }

    impl<S: Serializer> Serializer for Longer<S> {
        type Ok = S::Ok;
        type Error = S::Error;
        type SerializeSeq = Longer<S::SerializeSeq>;
        type SerializeTuple = Longer<S::SerializeTuple>;
        type SerializeTupleStruct = Longer<S::SerializeTupleStruct>;
        // Our records have no enums of serde's own: those are numbered records, in byte strings.
        type SerializeTupleVariant = S::SerializeTupleVariant;
        type SerializeMap = Longer<S::SerializeMap>;
        type SerializeStruct = Longer<S::SerializeStruct>;
        type SerializeStructVariant = S::SerializeStructVariant;

        plain! {
            serialize_bool(v: bool), serialize_i8(v: i8), serialize_i16(v: i16), serialize_i32(v: i32),
            serialize_i64(v: i64), serialize_u8(v: u8), serialize_u16(v: u16), serialize_u32(v: u32),
            serialize_u64(v: u64), serialize_f32(v: f32), serialize_f64(v: f64), serialize_char(v: char),
            serialize_str(v: &str), serialize_bytes(v: &[u8]), serialize_none(), serialize_unit(),
            serialize_unit_struct(name: &'static str),
            serialize_unit_variant(name: &'static str, index: u32, variant: &'static str),
        }

        fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
            self.0.serialize_some(&Longer(value))
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            name: &'static str,
            value: &T,
        ) -> Result<S::Ok, S::Error> {
            self.0.serialize_newtype_struct(name, &Longer(value))
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            name: &'static str,
            index: u32,
            variant: &'static str,
            value: &T,
        ) -> Result<S::Ok, S::Error> {
            self.0.serialize_newtype_variant(name, index, variant, &Longer(value))
        }

        fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
            self.0.serialize_seq(length).map(Longer)
        }

        fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
            self.0.serialize_tuple(length + 1).map(Longer)
        }

        fn serialize_tuple_struct(
            self,
            name: &'static str,
            length: usize,
        ) -> Result<Self::SerializeTupleStruct, S::Error> {
            self.0.serialize_tuple_struct(name, length + 1).map(Longer)
        }

        fn serialize_tuple_variant(
            self,
            name: &'static str,
            index: u32,
            variant: &'static str,
            length: usize,
        ) -> Result<S::SerializeTupleVariant, S::Error> {
            self.0.serialize_tuple_variant(name, index, variant, length)
        }

        fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
            self.0.serialize_map(length).map(Longer)
        }

        fn serialize_struct(
            self,
            name: &'static str,
            length: usize,
        ) -> Result<Self::SerializeStruct, S::Error> {
            self.0.serialize_struct(name, length + 1).map(Longer)
        }

        fn serialize_struct_variant(
            self,
            name: &'static str,
            index: u32,
            variant: &'static str,
            length: usize,
        ) -> Result<S::SerializeStructVariant, S::Error> {
            self.0.serialize_struct_variant(name, index, variant, length)
        }

        fn is_human_readable(&self) -> bool {
            self.0.is_human_readable()
        }
    }

    /// What a later version might add: something with a depth of its own.
    const ADDED: (u8, &str) = (7, "added later");

    impl<S: SerializeSeq> SerializeSeq for Longer<S> {
        type Ok = S::Ok;
        type Error = S::Error;

        fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
            self.0.serialize_element(&Longer(value))
        }

        fn end(self) -> Result<S::Ok, S::Error> {
            self.0.end()
        }
    }

    impl<S: SerializeTuple> SerializeTuple for Longer<S> {
        type Ok = S::Ok;
        type Error = S::Error;

        fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
            self.0.serialize_element(&Longer(value))
        }

        fn end(mut self) -> Result<S::Ok, S::Error> {
            self.0.serialize_element(&ADDED)?;
            self.0.end()
        }
    }

    impl<S: SerializeTupleStruct> SerializeTupleStruct for Longer<S> {
        type Ok = S::Ok;
        type Error = S::Error;

        fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
            self.0.serialize_field(&Longer(value))
        }

        fn end(mut self) -> Result<S::Ok, S::Error> {
            self.0.serialize_field(&ADDED)?;
            self.0.end()
        }
    }

    impl<S: SerializeMap> SerializeMap for Longer<S> {
        type Ok = S::Ok;
        type Error = S::Error;

        fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
            self.0.serialize_key(&Longer(key))
        }

        fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
            self.0.serialize_value(&Longer(value))
        }

        fn end(self) -> Result<S::Ok, S::Error> {
            self.0.end()
        }
    }

    impl<S: SerializeStruct> SerializeStruct for Longer<S> {
        type Ok = S::Ok;
        type Error = S::Error;

        fn serialize_field<T: Serialize + ?Sized>(
            &mut self,
            name: &'static str,
            value: &T,
        ) -> Result<(), S::Error> {
            self.0.serialize_field(name, &Longer(value))
        }

        fn skip_field(&mut self, name: &'static str) -> Result<(), S::Error> {
            Err(S::Error::custom(format!("`{name}` is left out and hands its place to the next")))
        }

        fn end(mut self) -> Result<S::Ok, S::Error> {
            self.0.serialize_field("added", &ADDED)?;
            self.0.end()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Inner(u8, String);

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Outer {
        pairs: Vec<(u8, u8)>,
        inner: Option<Inner>,
        text: String,
    }

    #[test]
    fn elements_that_are_not_known_are_skipped_at_every_depth() {
        let value = Outer {
            pairs: vec![(1, 2), (3, 4)],
            inner: Some(Inner(5, "i".into())),
            text: "t".into(),
        };
        let mut bytes = Vec::new();
        rmp_serde::encode::write(&mut bytes, &longer::Longer(&value)).unwrap();
        assert!(rmp_serde::from_slice::<Outer>(&bytes).is_err(), "rmp-serde refuses them");
        let mut decoder = rmp_serde::Deserializer::from_read_ref(&bytes[..]);
        assert_eq!(deserialize::<Outer, _>(&mut decoder).unwrap(), value);
    }

    #[test]
    fn an_array_that_is_too_short_is_refused() {
        let bytes = rmp_serde::to_vec(&(vec![(1u8, 2u8)],)).unwrap();
        let mut decoder = rmp_serde::Deserializer::from_read_ref(&bytes[..]);
        assert!(deserialize::<Outer, _>(&mut decoder).is_err());
    }

    #[derive(Serialize)]
    struct Skipping {
        #[serde(skip_serializing_if = "Option::is_none")] // the one that may
        first: Option<u8>,
        second: u8,
    }

    #[test]
    fn a_field_that_is_left_out_cannot_be_written_as_a_later_version_does() {
        let mut bytes = Vec::new();
        let full = Skipping { first: Some(1), second: 2 };
        rmp_serde::encode::write(&mut bytes, &longer::Longer(&full)).unwrap();
        let sparse = Skipping { first: None, ..full };
        let error = rmp_serde::encode::write(&mut bytes, &longer::Longer(&sparse)).unwrap_err();
        assert!(error.to_string().contains("`first` is left out"), "{error}");
    }

    // Samples are full, and full ones do not show it.
    #[test]
    fn no_field_of_this_crate_is_left_out_when_it_is_empty() {
        let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let attribute = ["skip_serializing", "_if"].concat();
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let lines = text.lines().filter(|line| line.contains(&attribute));
                    found.extend(lines.map(|line| format!("{}: {line}", path.display())));
                }
            }
        }
        found.retain(|line| !line.ends_with("// the one that may"));
        assert_eq!(found, Vec::<String>::new(), "it would hand its place to the next field");
    }
}
