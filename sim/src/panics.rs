//! Panics of simulated code. The simulator swallows those of spawned tasks, so they are caught
//! where they are raised.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `work`; tells its result, unless it panicked itself, and the text of all panics in it.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> (Option<T>, Vec<String>) {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let caught = CAUGHT.with_borrow_mut(|caught| {
                caught.as_mut().map(|caught| caught.push(info.to_string()))
            });
            if caught.is_none() {
                before(info);
            }
        }));
    });
    CAUGHT.set(Some(Vec::new()));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(work));
    (result.ok(), CAUGHT.take().unwrap_or_default())
}
