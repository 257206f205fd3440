//! Whether what is in memory of memo keys agrees with itself.

use super::Known;
use crate::core::Core;

impl Core {
    /// E3, E4, E5.
    pub(in crate::core) fn check_memos(&self) {
        let mut key_ids = 0;
        for (key_id, key) in &self.memos.keys {
            let reading = matches!(key.known, Known::Reading(_));
            let nothing = matches!(key.known, Known::Nothing);
            assert!(key.holder.is_none() || nothing, "E3: {key_id:?} is held");
            if nothing && !key.waiting.is_empty() {
                assert!(key.holder.is_some(), "E3: nobody holds {key_id:?}: {key:?}");
            }
            let to_wake = self.memos.asleep.keys_to_wake.contains(key_id);
            let told = self.memos.telling.contains(key_id) || to_wake;
            if nothing && key.holder.is_none() && !key.asleep.is_empty() {
                assert!(key.calls_at.is_some(), "E6: {key_id:?} calls those who sleep");
            }
            assert_eq!(
                told,
                matches!(key.known, Known::Result(_)),
                "E2: {key_id:?} has a result that is told"
            );
            let waits = key.waiting.iter().map(|waiter| (waiter, true));
            for (waiter, waits) in key.holder.iter().map(|held| (held, false)).chain(waits) {
                key_ids += 1;
                let (run, number) = waiter.asker;
                let lease = self.leases.get(&run);
                let lease = lease.unwrap_or_else(|| panic!("E5: {run} is leased"));
                assert!(!waits || lease.holder.is_some(), "E4: {run} is here");
                let known = lease.run.as_ref();
                let open = known.is_some_and(|run| !run.commands.is_resolved(number));
                assert!(open, "E4: step {number} of {run} has no outcome");
                assert_eq!(self.memos.key_ids.get(&waiter.asker), Some(key_id));
            }
            assert!(
                reading
                    || told
                    || key.holder.is_some()
                    || !key.waiting.is_empty()
                    || !key.asleep.is_empty(),
                "E5: {key_id:?} is kept for nobody"
            );
        }
        assert_eq!(key_ids, self.memos.key_ids.len(), "E5: places are of keys");
    }
}
