//! The stock report, every two seconds: whatever is killed, each occurrence has one run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell::model::limits::PAGE_ROWS_MAX;
use stepwell::model::request::ListRuns;
use stepwell::model::run::RunState;
use stepwell::model::schedule::{ScheduleInfo, ScheduleSpec};
use stepwell::{Ctx, Failure, Overlap, Time, Workflow};

use super::provider::{Ledger, StockReport};
use super::scene_context::SceneContext;
use super::shop::{CALL_HARD, CALL_SOFT, Shop, retry_policy};
use super::tally::unfinished;
use crate::clock;
use crate::failure::CommandError;

/// The queue of the stock reports.
pub(crate) const REPORTS: &str = "reports";
/// Counts what is on the shelves.
pub(crate) const STOCK_REPORT: Workflow<Shelf, String> =
    Workflow::new("stock-report").queue(REPORTS);
/// The schedule's name.
const NAME: &str = "stock";
/// How often it is.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// Occurrences caught up on in one call.
const PAGE: u32 = 100;
/// How often it is looked at while it comes to its end.
const LOOK: Duration = Duration::from_millis(50);
/// The last reports end within this long, or the reconciliation finds them unfinished.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shelf {
    /// Its name.
    pub(crate) shelf: String,
}

/// Sends one report.
pub(crate) async fn stock_report(shop: Shop, ctx: Ctx, ask: Shelf) -> Result<String, Failure> {
    let report =
        StockReport { run: ctx.run_name().unwrap_or_default().to_owned(), shelf: ask.shelf };
    let sent = ctx
        .step("send", |s| shop.call("/reports", &report, s.key()))
        .retry(retry_policy())
        .soft_timeout(CALL_SOFT)
        .timeout(CALL_HARD)
        .await?;
    Ok(sent.confirmation)
}

/// The occurrences in the demo.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    spec: ScheduleSpec,
    /// The first one.
    first: Time,
    /// Those before this instant count.
    until: Time,
    /// Missed ones whose runs an operator started, by a backfill.
    caught_up: u64,
}

/// What is found of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ScheduleFacts {
    /// Occurrences in the demo.
    pub(crate) occurrences: u64,
    /// Those that have exactly one run, and it completed.
    pub(crate) one_run: u64,
    /// Those whose report the provider got exactly once.
    pub(crate) one_report: u64,
    /// Runs of no time of the schedule, and further ones of one that has a run.
    pub(crate) stray: u64,
    /// Missed ones that a backfill caught up on.
    pub(crate) caught_up: u64,
    /// The first run and the last.
    pub(crate) names: Option<(String, String)>,
}

/// Sets the schedule.
pub(crate) async fn set(context: &SceneContext) -> Result<ScheduleInfo, CommandError> {
    let shelf = Shelf { shelf: "all".to_owned() };
    let set = context
        .insist(|client| {
            let schedule = client.schedule(NAME, STOCK_REPORT, &shelf);
            schedule.every(EVERY).overlap(Overlap::Allow).set()
        })
        .await?;
    Ok(set.schedule)
}

/// Ends the schedule: all occurrences until now count. A backfill starts those that were missed
/// while the server was dead.
pub(crate) async fn end(context: &SceneContext, set: ScheduleInfo) -> Result<Times, CommandError> {
    let first = set.state.next.unwrap_or(set.set_at);
    let stats = context.insist(|client| async move { client.stats().await }).await?;
    let until = stats.now;
    let begin = clock::now();
    let passed = |info: &ScheduleInfo| info.state.next.is_some_and(|next| next >= until);
    let mut info = show(context).await?;
    while !passed(&info) && clock::now().duration_since(begin) < ENDS_WITHIN {
        tokio::time::sleep(LOOK).await;
        info = show(context).await?;
    }
    context.insist(|client| async move { client.schedules().pause(NAME).await }).await?;
    let caught_up = match info.state.missed {
        0 => 0,
        _ => catch_up(context, first, until).await?,
    };
    while !is_idle(context).await? && clock::now().duration_since(begin) < ENDS_WITHIN {
        tokio::time::sleep(LOOK).await;
    }
    Ok(Times { spec: set.spec, first, until, caught_up })
}

async fn show(context: &SceneContext) -> Result<ScheduleInfo, CommandError> {
    context.insist(|client| async move { client.schedules().show(NAME).await }).await
}

async fn catch_up(context: &SceneContext, first: Time, until: Time) -> Result<u64, CommandError> {
    let (mut caught_up, mut from) = (0, Some(first));
    while let Some(begin) = from {
        let filled = context
            .insist(
                |client| async move { client.schedules().backfill(NAME, begin, until, PAGE).await },
            )
            .await?;
        caught_up += filled.started;
        from = filled.next;
    }
    Ok(caught_up)
}

async fn is_idle(context: &SceneContext) -> Result<bool, CommandError> {
    let queues = context.insist(|client| async move { client.queues().list().await }).await?;
    Ok(unfinished(&queues, REPORTS) == 0)
}

/// Compares the times with the list of all runs of the workflow, and with the provider's books.
pub(crate) async fn reconcile(
    context: &SceneContext,
    times: &Times,
    ledger: &Ledger,
) -> Result<ScheduleFacts, CommandError> {
    let mut runs: BTreeMap<String, Vec<RunState>> = BTreeMap::new();
    let mut before = None;
    loop {
        let page =
            ListRuns::default().workflow(STOCK_REPORT.name()).before(before).limit(PAGE_ROWS_MAX);
        let (rows, next) = context
            .insist(|client| {
                let page = page.clone();
                async move { client.list(page).await }
            })
            .await?;
        for row in rows {
            let name = row.name.unwrap_or_else(|| row.id.to_string());
            runs.entry(name).or_default().push(row.state);
        }
        before = next;
        if before.is_none() {
            break;
        }
    }
    Ok(compare(times, &runs, &ledger.reports))
}

fn compare(
    times: &Times,
    runs: &BTreeMap<String, Vec<RunState>>,
    reports: &BTreeMap<String, u64>,
) -> ScheduleFacts {
    let name = |nominal: Time| times.spec.run_name(nominal);
    let step = EVERY.as_millis() as usize;
    let due: Vec<String> =
        (times.first.0..times.until.0).step_by(step).map(|at| name(Time(at))).collect();
    // The schedule went on for a moment after the end of the count.
    let later: BTreeSet<String> = (times.first.0..)
        .step_by(step)
        .skip(due.len())
        .take(due.len() + 1)
        .map(|at| name(Time(at)))
        .collect();
    let states = |name: &String| runs.get(name).map_or(&[][..], Vec::as_slice);
    let is_one = |name: &&String| states(name) == [RunState::Completed];
    let surplus = |(name, states): (&String, &Vec<RunState>)| match due.contains(name) {
        true => states.len() as u64 - 1,
        false if later.contains(name) => 0,
        false => states.len() as u64,
    };
    ScheduleFacts {
        occurrences: due.len() as u64,
        one_run: due.iter().filter(is_one).count() as u64,
        one_report: due.iter().filter(|n| reports.get(*n) == Some(&1)).count() as u64,
        stray: runs.iter().map(surplus).sum(),
        caught_up: times.caught_up,
        names: due.first().cloned().zip(due.last().cloned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell::Payload;
    use stepwell::model::schedule::EveryTimes;

    fn times() -> Times {
        let spec = ScheduleSpec {
            name: NAME.into(),
            workflow: "stock-report".into(),
            version: 1,
            queue: REPORTS.into(),
            priority: 5,
            input: Payload::of(&()).unwrap(),
            when: EveryTimes { every_ms: 2_000, anchor: Time(0) }.into(),
            jitter_ms: 0,
            overlap: Overlap::Allow,
            catch_up_ms: 3_600_000,
            tags: Vec::new(),
        };
        Times { spec, first: Time(2_000), until: Time(6_001), caught_up: 0 }
    }

    // A run that is missing, one too many, one of no time and one that was not sent are each found.
    #[test]
    fn each_time_has_one_run_and_one_report() {
        let times = times();
        let names: Vec<String> =
            [2_000, 4_000, 6_000, 8_000, 3_000].map(|at| times.spec.run_name(Time(at))).to_vec();
        let ran = |names: &[String]| -> BTreeMap<String, Vec<RunState>> {
            let one = |name: &String| (name.clone(), vec![RunState::Completed]);
            names.iter().map(one).collect()
        };
        let sent = |names: &[String]| names.iter().map(|n| (n.clone(), 1)).collect();
        let found = |facts: ScheduleFacts| {
            (facts.occurrences, facts.one_run, facts.one_report, facts.stray)
        };

        let sound = compare(&times, &ran(&names[..4]), &sent(&names[..4]));
        assert_eq!(found(sound), (3, 3, 3, 0), "the fourth came later");
        let missing = compare(&times, &ran(&names[..2]), &sent(&names[1..3]));
        assert_eq!(found(missing), (3, 2, 2, 0));
        let stray = compare(&times, &ran(&names), &sent(&names[..3]));
        assert_eq!(found(stray), (3, 3, 3, 1));
        let mut runs = ran(&names[..3]);
        runs.insert(names[0].clone(), vec![RunState::Completed; 2]);
        let twice = compare(&times, &runs, &sent(&names[..3]));
        assert_eq!(found(twice), (3, 2, 3, 1));
    }
}
