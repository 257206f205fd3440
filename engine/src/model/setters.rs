//! Setters of the structs that users fill in: options, filters and limits.
//!
//! These structs are `#[non_exhaustive]`, so that a later version may add a field. A user begins
//! with `default()` and sets what differs, by a method or by assigning the field.

/// Declares a setter for each field, in an `impl` block of the struct. The fields are listed with
/// their types; a comment continues the setter's documentation.
///
/// The setter of an `Option<String>` takes anything that becomes a string, that of another
/// `Option<T>` a `T` or an `Option<T>`, and any other its field's type.
macro_rules! setters {
    () => {};
    ($(#[$doc:meta])* $field:ident: Option<String>, $($rest:tt)*) => {
        $crate::model::setters::setter! {
            $(#[$doc])* $field(impl Into<String>): |value| Some(value.into())
        }
        $crate::model::setters::setters! { $($rest)* }
    };
    ($(#[$doc:meta])* $field:ident: Option<$type:ty>, $($rest:tt)*) => {
        $crate::model::setters::setter! {
            $(#[$doc])* $field(impl Into<Option<$type>>): |value| value.into()
        }
        $crate::model::setters::setters! { $($rest)* }
    };
    ($(#[$doc:meta])* $field:ident: $type:ty, $($rest:tt)*) => {
        $crate::model::setters::setter! { $(#[$doc])* $field($type): |value| value }
        $crate::model::setters::setters! { $($rest)* }
    };
}

/// Declares one setter: its field, what it takes, and what of that the field holds.
macro_rules! setter {
    ($(#[$doc:meta])* $field:ident($type:ty): |$value:ident| $held:expr) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
        $(#[$doc])*
        #[must_use]
        pub fn $field(mut self, $value: $type) -> Self {
            self.$field = $held;
            self
        }
    };
}

pub(crate) use {setter, setters};

#[cfg(test)]
mod tests {
    use crate::model::dead::DeadFilter;
    use crate::model::limits::Limits;
    use crate::model::queue::{QueueChange, RateLimit};
    use crate::model::request::ListRuns;
    use crate::model::run::RunState;
    use crate::model::time::Time;

    // Each setter sets its own field, and no other.
    #[test]
    fn a_filter_built_by_methods_is_the_one_written_out() {
        let filter = DeadFilter::default().queue("mails").class("input").since(Time(3));
        let written = DeadFilter {
            queue: Some("mails".to_owned()),
            workflow: None,
            class: Some("input".to_owned()),
            since: Some(Time(3)),
            before: None,
        };
        assert_eq!(filter, written);
        let list = ListRuns::default().state(RunState::Dead).workflow("order").limit(7).from(1);
        let written = ListRuns {
            state: Some(RunState::Dead),
            workflow: Some("order".to_owned()),
            before: None,
            limit: 7,
            batch: None,
            from: Some(1),
        };
        assert_eq!(list, written);
        let limits = Limits::default().journal_entries_max(9);
        assert_eq!(limits, Limits { journal_entries_max: 9, ..Limits::default() });
    }

    // A caller passes on what it was given, which may be nothing.
    #[test]
    fn an_optional_field_takes_a_value_or_an_option() {
        let change = QueueChange::default().concurrency(4).paused(None).rate(RateLimit::NONE);
        let options = QueueChange::default().concurrency(Some(4)).rate(Some(RateLimit::NONE));
        assert_eq!(change, options);
        assert_eq!(change.concurrency(None).rate(None), QueueChange::default());
    }
}
