//! A workflow's name and types, shared by who starts it and who runs it.

use std::marker::PhantomData;
use std::time::Duration;

use super::step::TIMEOUT_DEFAULT;

/// Ties the client that starts a workflow to the worker that runs it: its name, version, queue,
/// input and output.
///
/// A constant of it is all the two need to share.
///
/// ```
/// use stepwell::Workflow;
/// const GREET: Workflow<String, String> = Workflow::new("greet").version(2).queue("mail");
/// assert_eq!((GREET.name(), GREET.code_version(), GREET.queue_name()), ("greet", 2, "mail"));
/// ```
pub struct Workflow<In, Out> {
    name: &'static str,
    version: u32,
    queue: &'static str,
    tags: &'static [&'static str],
    timeout: Duration,
    types: PhantomData<fn(In) -> Out>,
}

impl<In, Out> Workflow<In, Out> {
    /// The workflow of this name, version 1, queue `default`.
    ///
    /// The name is at most 128 bytes and identifies the code for ever: journals refer to it.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            version: 1,
            queue: "default",
            tags: &[],
            timeout: TIMEOUT_DEFAULT,
            types: PhantomData,
        }
    }

    /// Sets the version of the code. It is recorded with each step, for people; nothing is decided
    /// by it.
    #[must_use]
    pub const fn version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    /// Sets the queue its runs go through, unless a start names another.
    #[must_use]
    pub const fn queue(self, queue: &'static str) -> Self {
        Self { queue, ..self }
    }

    /// Sets the tags that a worker must offer to get its runs, unless a start names others.
    ///
    /// ```
    /// use stepwell::Workflow;
    /// const RENDER: Workflow<String, ()> = Workflow::new("render").tags(&["gpu"]);
    /// assert_eq!(RENDER.tag_names(), ["gpu"]);
    /// ```
    #[must_use]
    pub const fn tags(self, tags: &'static [&'static str]) -> Self {
        Self { tags, ..self }
    }

    /// Sets how long its function may run, or await a future that does not come from `ctx`,
    /// outside of steps: then this attempt at the whole function has failed, and is made again by
    /// [`Retry::default`](crate::Retry). Default 5 min 30 s.
    ///
    /// Time in steps does not count (they have timeouts of their own), nor does time in which the
    /// function waits for its context. A function without steps has it for all that it does.
    ///
    /// ```
    /// use stepwell::{Workflow, secs};
    /// const REPORT: Workflow<String, u64> = Workflow::new("report").timeout(secs(1_200));
    /// assert_eq!(REPORT.function_timeout(), secs(1_200));
    /// ```
    #[must_use]
    pub const fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The version of the code.
    pub const fn code_version(&self) -> u32 {
        self.version
    }

    /// The queue its runs go through, unless a start names another.
    pub const fn queue_name(&self) -> &'static str {
        self.queue
    }

    /// How long its function may run or wait outside of steps and its context.
    pub const fn function_timeout(&self) -> Duration {
        self.timeout
    }

    /// The tags that a worker must offer to get its runs, unless a start names others.
    pub const fn tag_names(&self) -> &'static [&'static str] {
        self.tags
    }
}

impl<In, Out> Clone for Workflow<In, Out> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<In, Out> Copy for Workflow<In, Out> {}

impl<In, Out> std::fmt::Debug for Workflow<In, Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "workflow `{}` version {}", self.name, self.version)
    }
}
