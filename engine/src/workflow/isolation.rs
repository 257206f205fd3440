//! Where the attempts at a step are made.

/// Where the attempts at a step are made. See
/// [`StepFuture::isolation`](super::StepFuture::isolation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// In the worker, inside of the workflow's function. The default.
    #[default]
    InPlace,
    /// Each attempt in a process of its own.
    ///
    /// The worker's own binary is executed again, with the same arguments; its
    /// [`Worker`](crate::Worker), when it is started, gets the run's journal from its parent
    /// instead of connecting to the engine, replays the function up to this step, runs only its
    /// body, and hands back what it returned. At the timeout the process and all that it has
    /// started are killed. If it crashes, exits or runs out of memory, the attempt has failed
    /// (class `process`), and the worker goes on.
    ///
    /// Costs some milliseconds an attempt, and whatever the program does before it starts its
    /// worker. Unix only; in a simulation such a step runs in place.
    Process {
        /// The memory the process may have for its data (heap, private mappings, stacks;
        /// `RLIMIT_DATA`), in bytes. An allocation beyond it fails, which ends a Rust program.
        memory_bytes_max: Option<u64>,
    },
}

impl Isolation {
    /// Each attempt in a process of its own, without a limit on its memory.
    pub const fn process() -> Self {
        Self::Process { memory_bytes_max: None }
    }

    /// The same, and its data may take so many bytes of memory. In place there is no such limit.
    #[must_use]
    pub const fn memory(self, bytes_max: u64) -> Self {
        match self {
            Self::InPlace => Self::InPlace,
            Self::Process { .. } => Self::Process { memory_bytes_max: Some(bytes_max) },
        }
    }
}
