//! **Fencing tokens only rise, at most one lease is live, and only its holder is heard.**
//!
//! Source: rule R2 of the design and the core's invariants G1 (a run has at most one slot), G2
//! (tokens only rise), G3 (a report changes something only if its token equals the run's current
//! one).

use std::collections::{BTreeMap, BTreeSet};

use stepwell::model::entry::Entry;
use stepwell::model::id::{CommandIndex, RunNo, Token};
use stepwell::tables::LeaseRecord;
use stepwell::wire::message::Message;

use super::Findings;
use crate::durable::Durable;

const NAME: &str = "only the holder of the lease is heard";
const RISE: &str = "fencing tokens only rise";
const ONE: &str = "a run has at most one lease";

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Completed(CommandIndex),
    Asked(CommandIndex),
    Failed(CommandIndex),
    Timer(CommandIndex),
    Returned,
    Gave,
}

/// What workers have said, and which token counts.
#[derive(Default)]
pub(super) struct Fence {
    said: BTreeSet<(RunNo, Token, Said)>,
    highest: Option<Token>,
    /// The leases as of the last batch, and those of the batch at hand.
    current: BTreeMap<RunNo, Token>,
    /// One that ended in the batch at hand counts for what that batch writes.
    before: BTreeMap<RunNo, Token>,
}

impl Fence {
    pub(super) fn reported(&mut self, message: &Message) {
        let (run, token, said) = match message {
            Message::StepCompletedReport(r) => (r.run, r.token, Said::Completed(r.number)),
            Message::AttemptFailedReport(r) => (r.run, r.token, Said::Failed(r.number)),
            Message::MemoRequested(r) => (r.run, r.token, Said::Asked(r.number)),
            Message::TimerRequested(r) => (r.run, r.token, Said::Timer(r.number)),
            Message::TurnCompleted(r) => (r.run, r.token, Said::Returned),
            Message::TurnFailed(r) => (r.run, r.token, Said::Gave),
            _ => return,
        };
        self.said.insert((run, token, said));
    }

    pub(super) fn batch_begins(&mut self) {
        self.before.clear();
    }

    /// A lease that ended is nobody's from the next batch on.
    pub(super) fn batch_ended(&mut self, durable: &Durable) {
        let leases = durable.leases.values();
        self.current = leases.map(|lease| (lease.run, lease.token)).collect();
    }

    pub(super) fn leased(
        &mut self,
        durable: &Durable,
        slot: u32,
        before: Option<&LeaseRecord>,
        findings: &mut Findings<'_>,
    ) {
        let Some(lease) = durable.leases.get(&slot) else {
            return;
        };
        if let Some(old) = self.current.insert(lease.run, lease.token) {
            self.before.entry(lease.run).or_insert(old);
        }
        let again =
            before.is_some_and(|before| before.token == lease.token && before.run == lease.run);
        if !again && self.highest.is_some_and(|highest| lease.token <= highest) {
            findings.report(
                RISE,
                format!(
                    "run {} is leased under {}, after {:?}",
                    lease.run, lease.token, self.highest
                ),
            );
        }
        self.highest = self.highest.max(Some(lease.token));
    }

    /// Whatever is told of a turn was said under the token that counts.
    pub(super) fn appended(
        &mut self,
        durable: &Durable,
        no: RunNo,
        index: u32,
        findings: &mut Findings<'_>,
    ) {
        let Some(run) = durable.runs.get(&no) else {
            return;
        };
        let whole = Said::Gave;
        let (said, or) = match &run.entries[index as usize] {
            // Somebody else's result: the step had asked for it, or come with another one. Its
            // place may be older than the token: a worker that comes back while its body runs does
            // not ask again.
            Entry::StepCompleted(e) if e.attempt == 0 => {
                let asked = [Said::Asked(e.number), Said::Completed(e.number)];
                let said = |(of, _, said): &(RunNo, Token, Said)| *of == no && asked.contains(said);
                if !self.said.iter().any(said) {
                    let text = format!("{}: entry {index} was never asked for", run.name());
                    findings.report(NAME, text);
                }
                return;
            }
            Entry::StepCompleted(e) => (Said::Completed(e.number), None),
            Entry::StepFailed(e) => (Said::Failed(e.number), None),
            Entry::AttemptFailed(e) if e.number == CommandIndex::FUNCTION => (whole, None),
            Entry::AttemptFailed(e) => (Said::Failed(e.number), None),
            Entry::TimerArmed(e) => (Said::Timer(e.number), None),
            Entry::Completed(_) => (Said::Returned, None),
            Entry::Died(e) if super::proof::is_by_engine(e) => return,
            Entry::Died(_) => (whole, None),
            Entry::Cancelled(_) if run.was_cancelled_in_line() => return,
            Entry::Cancelled(_) => (whole, Some(Said::Returned)),
            Entry::Started(_) | Entry::TimerFired(_) | Entry::CancelRequested(_) => return,
            Entry::Redriven(_) | Entry::InputEdited(_) | Entry::Discarded(_) => return,
        };
        let tokens = [
            durable.leases.values().find(|lease| lease.run == no).map(|lease| lease.token),
            self.before.get(&no).copied(),
            self.current.get(&no).copied(),
        ];
        let heard = |said: Said| {
            tokens.iter().flatten().any(|token| self.said.contains(&(no, *token, said)))
        };
        if !heard(said) && !or.is_some_and(heard) {
            let under: Vec<String> = self
                .said
                .iter()
                .filter(|(run, _, s)| *run == no && *s == said)
                .map(|(_, token, _)| token.to_string())
                .collect();
            findings.report(
                NAME,
                format!("{}: entry {index} ({}) was never said under the current lease, {tokens:?}, only under {under:?}", run.name(), run.entries[index as usize].kind_name()),
            );
        }
    }
}

/// No two slots hold the same run.
pub(super) fn one_lease_a_run(durable: &Durable, findings: &mut Findings<'_>) {
    let mut seen = BTreeMap::new();
    for (slot, lease) in &durable.leases {
        if let Some(other) = seen.insert(lease.run, slot) {
            findings
                .report(ONE, format!("run {} is leased in slots {other} and {slot}", lease.run));
        }
    }
}

#[cfg(test)]
mod tests {
    use stepwell::model::entry::{SourceLocation, StepCompleted};
    use stepwell::model::id::ProcessInstance;
    use stepwell::model::payload::Payload;
    use stepwell::model::time::Time;
    use stepwell::wire::message::StepCompletedReport;

    use super::*;
    use crate::durable::DurableRun;

    const RUN: RunNo = RunNo(1);

    fn lease() -> LeaseRecord {
        LeaseRecord {
            run: RUN,
            token: Token::default(),
            process: ProcessInstance(5),
            build: String::new(),
            workflow: String::new(),
            queue: 1,
            priority: 5,
            sequence: 1,
            entries: 1,
            deaths: 0,
            avoid: Vec::new(),
            tags: Vec::new(),
            since: Time(0),
            at: Time(0),
        }
    }

    fn completed(durable: &mut Durable) -> u32 {
        let run: &mut DurableRun = durable.runs.entry(RUN).or_default();
        run.entries.push(
            StepCompleted {
                at: Time(0),
                number: CommandIndex(0),
                location: SourceLocation::default(),
                attempt: 1,
                output: Payload::default(),
            }
            .into(),
        );
        run.entries.len() as u32 - 1
    }

    /// How many charges there are if a report is written `batches` after its lease was taken away.
    fn violations(batches: u32) -> usize {
        let (mut fence, mut durable, mut violations) =
            (Fence::default(), Durable::default(), Vec::new());
        let mut findings = Findings { now_ms: 0, violations: &mut violations };
        fence.reported(
            &StepCompletedReport {
                run: RUN,
                token: Token::default(),
                number: CommandIndex(0),
                location: SourceLocation::default(),
                attempt: 1,
                output: Payload::default(),
                memo: None,
            }
            .into(),
        );
        fence.batch_begins();
        durable.leases.insert(0, lease());
        fence.leased(&durable, 0, None, &mut findings);
        fence.batch_ended(&durable);
        durable.leases.clear();
        for _ in 0..batches {
            fence.batch_ended(&durable);
            fence.batch_begins();
        }
        let index = completed(&mut durable);
        fence.appended(&durable, RUN, index, &mut findings);
        violations.len()
    }

    // What takes a lease away may write what was reported under it, and nothing does so later.
    #[test]
    fn a_report_counts_no_longer_than_its_lease() {
        assert_eq!(violations(0), 0, "in the batch that ends it");
        assert_eq!(violations(1), 1, "after it");
    }
}
