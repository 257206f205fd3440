//! `tables!` declares the tables. Everything that has to know of each table follows from the one
//! invocation in `mod.rs`, or matches over [`Table`](super::Table),
//! [`TableRow`](super::TableRow) or [`TableChange`](super::TableChange) without a catch-all arm: a
//! table that is forgotten does not compile.
//!
//! ```text
//!   <number> => <Table> "<name>": <space>, <Key> { <part>: <type>, … } => <Record>;
//! ```
//!
//! The space is `long_lived`, `short_lived` or `generation`. Without braces the key is a type that
//! is written by hand.

macro_rules! tables {
    // The space of a table whose rows all lie in one.
    (@fixed long_lived $key:ident) => {
        impl FixedSpace for $key {
            const SPACE: Space = Space::LongLived;
        }
    };
    (@fixed short_lived $key:ident) => {
        impl FixedSpace for $key {
            const SPACE: Space = Space::ShortLived;
        }
    };
    (@fixed generation $key:ident) => {};
    (@kind long_lived) => { SpaceKind::LongLived };
    (@kind short_lived) => { SpaceKind::ShortLived };
    (@kind generation) => { SpaceKind::Generation };

    (@key $table:ident $key:ident { $($part:ident: $type:ty),* } $record:ty) => {
        #[doc = concat!("The key of a row of [`Table::", stringify!($table), "`].")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the parts of a key are named in the table of tables")]
        pub struct $key { $(pub $part: $type),* }

        impl TableKey for $key {
            const TABLE: Table = Table::$table;
            const PARTS_BYTES: usize = 0 $(+ <$type as KeyPart>::BYTES)*;
            type Record = $record;

            #[allow(unused_variables, reason = "a key may have no parts")]
            fn put_parts(&self, into: &mut Vec<u8>) {
                $(self.$part.put(into);)*
            }

            #[allow(unused_mut, reason = "a key may have no parts")]
            fn from_parts(parts: &[u8]) -> Option<Self> {
                let mut rest = parts;
                let key = Self { $($part: KeyPart::take(&mut rest)?),* };
                rest.is_empty().then_some(key)
            }
        }
    };

    ($(
        $(#[$meta:meta])*
        $number:literal => $table:ident $name:literal: $space:ident,
            $key:ident $({ $($part:ident: $type:ty),* $(,)? })? => $record:ty;
    )+) => {
        /// A table: rows of one kind, which lie side by side.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Table { $($(#[$meta])* $table = $number),+ }

        impl Table {
            /// All tables, in the order of their numbers.
            pub const ALL: [Self; [$($number),+].len()] = [$(Self::$table),+];

            /// Its name, as it is printed: one word.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$table => $name),+ }
            }

            /// In which of the spaces its rows lie.
            pub const fn space(self) -> SpaceKind {
                match self { $(Self::$table => tables!(@kind $space)),+ }
            }

            fn numbered(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$table),)+ _ => None }
            }

            /// Does something with the key type of each table.
            pub fn each(visitor: &mut impl EachTable) {
                $(visitor.table::<$key>();)+
            }
        }

        $($(tables!(@key $table $key { $($part: $type),* } $record);)?)+
        $(tables!(@fixed $space $key);)+

        /// A row as its key and record.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, clippy::large_enum_variant, reason = "a row a table, of passage")]
        pub enum TableRow { $($table($key, $record)),+ }

        impl TableRow {
            /// Reads a stored row.
            pub fn read(space: Space, key: &[u8], value: &Bytes) -> Result<Self, BadRow> {
                match BadRow::table_in(space, key)? {
                    $(Table::$table => read_row(key, value).map(|(key, record)| Self::$table(key, record)),)+
                }
            }

            /// Its table.
            #[cfg(any(test, feature = "inspect"))]
            pub fn table(&self) -> Table {
                match self { $(Self::$table(..) => Table::$table),+ }
            }

            /// The stored key and value.
            #[cfg(any(test, feature = "inspect"))]
            pub fn to_stored(&self) -> (Bytes, Bytes) {
                match self { $(Self::$table(key, record) => (key.to_bytes(), record.to_value())),+ }
            }

            /// What can be printed of the record.
            pub fn record(&self) -> &dyn std::fmt::Debug {
                match self { $(Self::$table(_, record) => record),+ }
            }
        }

        /// What a write does to a row: its key and its new record, or none if it is deleted.
        #[cfg(any(test, feature = "inspect"))]
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, clippy::large_enum_variant, reason = "a row a table, of passage")]
        pub enum TableChange { $($table($key, Option<$record>)),+ }

        #[cfg(any(test, feature = "inspect"))]
        impl TableChange {
            /// Reads a write.
            pub fn read(op: &Op) -> Result<Self, BadRow> {
                match BadRow::table_in(op.space(), op.key())? {
                    $(Table::$table => {
                        let (key, record) = read_change(op)?;
                        Ok(Self::$table(key, record))
                    })+
                }
            }
        }
    };
}
pub(super) use tables;
