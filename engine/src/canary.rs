//! The engine's canaries: bugs planted on purpose, to see that the simulation notices them. See the
//! storage's module of this name for how; in a build without `--cfg canary` there are none.

/// Whether the canary of this name is awake. A name that is not listed does not compile.
#[cfg(not(canary))]
macro_rules! canary {
    ($name:literal) => {
        false
    };
}

/// Whether the canary of this name is awake. A name that is not listed does not compile.
#[cfg(canary)]
macro_rules! canary {
    ($name:literal) => {{
        const NUMBER: u64 = stepwell_storage::canary::listed($crate::canary::ALL, $name);
        stepwell_storage::canary::is_awake(NUMBER)
    }};
}

pub(crate) use canary;

#[cfg(canary)]
pub use planted::ALL;
#[cfg(canary)]
pub use stepwell_storage::canary::{Canary, select};

#[cfg(canary)]
mod planted {
    use super::Canary;

    const fn canary(name: &'static str, breaks: &'static str) -> Canary {
        Canary { name, breaks }
    }

    /// The engine's canaries.
    pub const ALL: &[Canary] = &[
        // What leaves.
        canary(
            "actions wait for the commit before theirs",
            "R1: nothing leaves before it is durable",
        ),
        canary(
            "an outcome goes to those who wait for another run",
            "a waiting client is told the outcome of the run it asked for",
        ),
        canary(
            "a crowd is answered with its first",
            "a call that starts several runs is answered when all of them are decided",
        ),
        canary("a transition is cut in two", "what one transition writes is in one batch"),
        canary(
            "a long entry's first row goes first",
            "the row that makes a long entry exist is written after its parts",
        ),
        // Starts.
        canary(
            "a start leaves no index row",
            "a start is idempotent by its id, also after a restart",
        ),
        canary(
            "a journal that goes on is read as its first entry",
            "what is read ahead of a run is what is read of it alone",
        ),
        canary(
            "two starts wait for one look-up",
            "a start is idempotent by its id, also while another is under way",
        ),
        canary("another input is taken for the same", "the same id with another input is refused"),
        canary(
            "the first run of a day is looked for in the day before",
            "a run's journal is found where it was born",
        ),
        canary(
            "unique keys are forgotten at a restart",
            "U1: a key has one holder, also after a restart",
        ),
        canary(
            "a unique key is never let go of",
            "U3: the end of a run, or its first lease, lets go of its key",
        ),
        canary(
            "a memo key is forgotten at a restart",
            "E1: a memo key has one result, also after a restart",
        ),
        canary(
            "the second result of a memo key counts",
            "E1, E2: the result that is committed first is the result",
        ),
        canary(
            "a memo claim is not passed on",
            "E3: when an attempt at a memo key ends, the next in line makes one",
        ),
        canary(
            "two bodies of a memo key at a time",
            "E3: one attempt at a memo key is made at a time",
        ),
        canary(
            "who comes back loses its memo key",
            "E3, E4: a worker that comes back in time keeps what its steps hold",
        ),
        canary(
            "a waiter of a memo key is never woken",
            "E6, E7: a run that sleeps for a key is woken when that is free or has a result",
        ),
        canary(
            "who sleeps for a memo key is forgotten at a restart",
            "E6: who slept is read after an opening",
        ),
        canary(
            "an atomic start is cut in two",
            "M1: the runs that a call begins are written in one batch",
        ),
        canary(
            "an atomic start starts some",
            "M2: a call begins none of its runs if one of them is refused",
        ),
        // Batches.
        canary(
            "a batch does not count its dead",
            "B1: a batch's counts equal the states of its runs",
        ),
        canary(
            "a redriven run counts twice for its batch",
            "B4: a batch counts a run that is redriven once",
        ),
        canary(
            "a seal alone is not written",
            "B3, R1: a batch that is told to be sealed is sealed",
        ),
        canary(
            "a sealed batch takes a run",
            "B2: a run is added to a batch only while it is not sealed",
        ),
        canary(
            "a batch is forgotten before its retention",
            "batches that have ended are kept for the retention",
        ),
        canary("a follow-up starts one early", "B3: a batch ends when its last run has ended"),
        canary(
            "a follow-up never starts",
            "B3: the follow-up of a batch begins in the commit that ends it",
        ),
        canary("a follow-up starts twice", "B3: a batch is followed by one run"),
        canary("an item is in its group twice", "H1: an item is in a group once"),
        canary("outcomes of items are mixed up", "H2: an outcome is that of the item at its place"),
        canary(
            "a call with too few outcomes counts",
            "H3: a wrong number of outcomes fails the attempt of each item",
        ),
        // Leases.
        canary(
            "no fence",
            "R2, G3: a report counts only under the run's current token, from its session",
        ),
        canary(
            "an older token counts",
            "R2, G3: a token must equal the current one, not be at most it",
        ),
        canary("tokens forget their epoch", "G2: tokens only rise"),
        canary(
            "a leased run keeps its queued row",
            "Q1: a run that has not ended is in exactly one place",
        ),
        canary(
            "leases are forgotten at a restart",
            "R6: a leased run is reserved for its worker, and queued again without it",
        ),
        canary(
            "a dispatch lost with its connection is forgotten",
            "what a worker does not hold when it comes back is queued again",
        ),
        canary("a requeued run is forgotten", "a requeued run is queued again"),
        canary(
            "a continued lease sends nothing that was missed",
            "K4: a worker that comes back is told the entries it has not seen",
        ),
        canary("a slot is never free again", "a worker has as many free slots as it holds no runs"),
        // Liveness.
        canary("a lease expires by its age", "R6: liveness, not age, decides"),
        canary("silence is measured by the wall clock", "R4: sessions live on monotonic time"),
        canary("heartbeats do not count as heard", "P2: any frame counts as heard"),
        canary(
            "heartbeats are not answered",
            "P2: each side sends a heartbeat, whatever else it sends",
        ),
        canary(
            "inputs put the watch over sessions off",
            "a silent session is noticed after its time-out, whatever else happens",
        ),
        canary(
            "a suspect is never cleared",
            "progress clears a suspect: only deaths in a row make a dead letter",
        ),
        canary("a suspect is not leased alone", "after two deaths in a row a run is leased alone"),
        // Protocols.
        canary(
            "a frame of a later protocol goes to a peer of protocol 2",
            "a frame that a peer may not know is sent only where its protocol was agreed",
        ),
        canary(
            "the lowest common protocol is agreed",
            "what follows a welcome is of the highest protocol that both sides speak",
        ),
        // Queues and timers across restarts.
        canary(
            "queued runs are forgotten at a restart",
            "Q1: a queued run is found again from where its lane begins",
        ),
        canary(
            "timers are forgotten at a restart",
            "Q1: a waiting run is found again from the first timer on",
        ),
        canary(
            "a run comes back before the stored cursor",
            "no run waits before the stored beginning of its lane",
        ),
        canary(
            "the stored cursor passes a run that is being leased",
            "no run waits before the stored beginning of its lane",
        ),
        canary("a timer fires early", "T1: a timer fires at or after its instant"),
        canary("a timer fires late", "T1: a waiting run is queued when its timer is due"),
        canary("a delayed run starts early", "a delayed run starts at or after its instant"),
        canary(
            "a delayed run is counted as a suspended one",
            "C1: the tally equals the states of all runs",
        ),
        canary(
            "the worker is not told of its timer",
            "what is appended to a leased run's journal is told to its worker",
        ),
        canary(
            "a turn suspends over what it has not seen",
            "a run whose journal has grown behind its worker's back is queued at once",
        ),
        // What a queue's settings let through.
        canary(
            "the limit is looked at after the lease",
            "L1: a new lease leaves at most as many leased as the concurrency limit says",
        ),
        canary(
            "restored leases have no place in the limit",
            "L1: runs kept for workers that may come back are leased",
        ),
        canary(
            "a dead worker's place in the limit is lost",
            "L1: a run that is no longer leased takes no place",
        ),
        canary(
            "the bucket is full again after a restart",
            "L2: what is left of a rate limit is durable with the leases it paid for",
        ),
        canary(
            "a paused queue dispatches",
            "L3: while a queue is paused there is no new lease in it",
        ),
        canary("priorities are not looked at", "L4: the smallest priority goes first"),
        canary(
            "the oldest never gets its share",
            "L4: one dispatch in so many goes to the run that waits longest",
        ),
        canary("the oldest never gets its share of a worker", "L4: and so of those of one worker"),
        canary("tags are not looked at", "a run goes only where its tags are offered"),
        // Clocks and retention.
        canary(
            "engine time begins at the wall clock",
            "R4: engine time never goes backwards, across restarts too",
        ),
        canary(
            "engine time is set back with the wall clock",
            "R4: engine time never goes backwards",
        ),
        canary("a run is forgotten before its retention", "ended runs are kept for seven days"),
        canary(
            "what outlives its generation is not copied",
            "a generation is dropped when nothing in it is needed",
        ),
        canary(
            "a generation emptied before the engine ended is forgotten",
            "what is dropped whole is dropped, also after a restart between its record and itself",
        ),
        // Steps.
        canary("an outcome counts twice", "S1: a command has at most one outcome"),
        canary(
            "a failed attempt counts twice",
            "an attempt is recorded once, however often it is reported",
        ),
        canary("a timer is armed twice", "a timer is armed once, however often it is asked for"),
        canary(
            "retries are counted anew",
            "each wait of a step's backoff is longer than the one before",
        ),
        canary("no backoff", "a failed attempt is not made again before its instant"),
        canary(
            "the wait is one backoff short",
            "A12, A40: each wait is the one the policy says, to the millisecond",
        ),
        canary(
            "a retry after uses up a retry",
            "A14: a failure that says when to come back uses up no retry",
        ),
        canary("the timeout does not fire", "A44: an attempt ends at its timeout"),
        canary(
            "the slot is not free after a timeout",
            "A44: an attempt that was ended at its timeout is reported, and its run goes on",
        ),
        canary(
            "the soft timeout is told after the timeout",
            "A42: the soft timeout is told in time to clean up",
        ),
        canary(
            "a dispatch does not tell the time",
            "a worker that waits for a backoff knows engine time, not an estimate that ran ahead",
        ),
        canary("dead letters are not counted", "C1: the tally equals the states of all runs"),
        canary("a cancel is lost", "a cancel that was acknowledged is in the journal"),
        // Replay.
        canary("the chain is not checked", "a journal's chain is verified whenever it is read"),
        canary("a replay executes steps", "W3: bodies run when the journal is used up"),
        canary(
            "two outcomes between two polls",
            "W2: exactly one outcome is resolved between two polls",
        ),
        canary(
            "a cancel is passed over in replay",
            "a cancel resolves what is pending in the same place in every replay",
        ),
        canary(
            "the time of a replay is its own",
            "`ctx.now` is the instant of the last outcome, also in a replay",
        ),
        canary("a copy of an entry counts", "W1: each entry is taken in once"),
        canary(
            "a failed attempt that comes with an outcome is not made again",
            "W8: what lets the function go on is followed by a poll",
        ),
        canary(
            "the gate forgets who waits",
            "W8: a step that was not allowed to start is told when it may",
        ),
        canary(
            "reports are not sent again",
            "W6: a report is sent once under each token until it is answered",
        ),
        // Schedules.
        canary("an occurrence fires early", "O1: an occurrence is started at or after its instant"),
        canary(
            "an occurrence's run id is made of when it is started",
            "O2: one run for each schedule and nominal time",
        ),
        canary(
            "a schedule moves on without its run",
            "O3: the run and the advanced record are in one batch",
        ),
        canary(
            "all that was missed is started",
            "O4: of what was missed only the newest is started",
        ),
        canary("a paused schedule fires", "O5: a paused schedule starts nothing"),
        canary(
            "the last run of a schedule is not looked at",
            "O6: while the last run has not ended, the overlap policy says what happens",
        ),
        canary(
            "what a gap of the clocks skips is left out",
            "a wall time that is skipped is the first instant after the gap",
        ),
        // Operators' requests.
        canary(
            "a late copy of a request acts again",
            "N1: an operator's request about a queue or a schedule takes effect once",
        ),
        canary(
            "a request is acknowledged and has no effect",
            "N2: what a request changes and that it was applied is written in one batch",
        ),
        canary(
            "applied requests are forgotten at a restart",
            "N1: a request that was applied is known after a restart",
        ),
        // Clients.
        canary(
            "requests are numbered from one in each life",
            "a late answer to an earlier life of a client answers no request",
        ),
        canary(
            "a refused hello answers for requests sent before",
            "a request that may have taken effect is not told to have taken none",
        ),
        canary(
            "requests are lost with their connection",
            "a request without an answer is sent again over the next connection",
        ),
        // Dead letters.
        canary("a redrive runs finished steps again", "D2: a redrive keeps finished steps"),
        canary("a redrive resets nothing", "D2: a redrive supersedes the failed step"),
        canary(
            "an edit is forgotten at replay",
            "W10: the function gets the input of the last edit",
        ),
        canary(
            "an audit entry is not recorded",
            "what an operator does is recorded in the same batch",
        ),
        canary(
            "a discarded run stays on the list",
            "D1: the list of dead letters is the dead runs",
        ),
        canary("a redrive given twice acts twice", "D5: a request takes effect once"),
        canary(
            "a run of an unregistered workflow dies at once",
            "an unregistered workflow is waited for",
        ),
        canary(
            "a workflow whose workers are busy is unregistered",
            "a workflow is unregistered only while no worker that registers it is connected",
        ),
    ];
}
