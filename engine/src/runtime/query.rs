//! Questions that only read: listings, journals, counts. They never go through the core; what they
//! tell is released like any other action, once what they may have seen is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use stepwell_storage::{Scan, Store};

use super::dead_letters;
use crate::core::clock::ClockSample;
use crate::core::{Core, summary};
use crate::model::chain::{self, CHAIN_BYTES};
use crate::model::id::{Namespace, ProcessInstance, RunId, RunNo};
use crate::model::limits::PAGE_ROWS_MAX;
use crate::model::request::{Damaged, ListRuns, NoSuchRun, Refusal};
use crate::model::run::{RunState, RunSummary, Stats};
use crate::model::time::Time;
use crate::store_reader::{self, Unreadable};
use crate::tables::{self, DeadKey, FixedSpace, TableKey};
use crate::wire::frame::JOURNAL_FRAME_BYTES;
use crate::wire::message::{
    Answer, AskAudit, AskJournal, AskLetters, AskStats, JournalPage, JournalPageRequested,
    JournalReply, ListReply, RefusedReply, Request, StatsReply,
};

/// Runs looked at for one page at most; the answer says where to go on.
const LOOK_MAX: u32 = 2_000;

/// What a question sees: the store, and which runs are leased now.
pub(super) struct View {
    store: Arc<dyn Store>,
    leased: BTreeMap<RunNo, ProcessInstance>,
    newest: RunNo,
    births: Box<dyn Fn(RunNo) -> (u32, bool) + Send + Sync>,
    stats: Stats,
    audit_from: Time,
}

impl View {
    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(super) fn birth_of(&self, no: RunNo) -> (u32, bool) {
        (self.births)(no)
    }

    /// No entry is stored before this instant.
    pub(super) fn audit_from(&self) -> Time {
        self.audit_from
    }

    pub(super) fn of(core: &Core, store: Arc<dyn Store>, stats: Stats, _now: ClockSample) -> Self {
        let births = core.births();
        let (leased, newest) = (core.leased_runs(), core.newest_run());
        Self {
            store,
            leased,
            newest,
            births: Box::new(births),
            stats,
            audit_from: core.audit_from(),
        }
    }

    async fn summary_of(&self, no: RunNo) -> Result<Option<(Namespace, RunSummary)>, Unreadable> {
        let Some(image) = store_reader::image(&*self.store, no, (self.births)(no)).await? else {
            return Ok(None);
        };
        let held = self.leased.get(&no).filter(|_| image.run.ended.is_none());
        let state = if held.is_some() { RunState::Running } else { Core::state_of(&image) };
        let mut row = summary(&image.run, state);
        row.process = held.copied();
        if state == RunState::Suspended {
            row.wakes_at = image.sleeps.filter(|at| *at < Time::NEVER);
        }
        if let Some(stopped) = &image.stopped {
            row.reason = Some(stopped.reason.clone());
        }
        Ok(Some((image.run.namespace, row)))
    }
}

/// A question that the reader answers.
pub(super) enum Query {
    List(ListRuns),
    Journal(AskJournal),
    Dead(ListRuns),
    Stats,
    Letters(AskLetters),
    Audit(AskAudit),
}

impl Query {
    /// The question that a request asks; none if it is for the core.
    pub(super) fn of(request: &Request) -> Option<Self> {
        match request {
            Request::AskList(ask) => Some(Self::List(ask.list.clone())),
            Request::AskJournal(ask) => Some(Self::Journal(ask.clone())),
            Request::AskDead(ask) => Some(Self::Dead(ask.list.clone())),
            Request::AskStats(AskStats {}) => Some(Self::Stats),
            Request::AskLetters(ask) => Some(Self::Letters(ask.clone())),
            Request::AskAudit(ask) => Some(Self::Audit(ask.clone())),
            Request::Start(_)
            | Request::AskOutcome(_)
            | Request::AskStatus(_)
            | Request::Cancel(_)
            | Request::Resume(_)
            | Request::AskQueues(_)
            | Request::SetQueue(_)
            | Request::EditInput(_)
            | Request::Redrive(_)
            | Request::Discard(_)
            | Request::SetSchedule(_)
            | Request::AskSchedules(_)
            | Request::AskOccurrences(_)
            | Request::PauseSchedule(_)
            | Request::ResumeSchedule(_)
            | Request::RemoveSchedule(_)
            | Request::Backfill(_)
            | Request::StartBatch(_)
            | Request::AskBatch(_)
            | Request::AtomicStart(_) => None,
        }
    }

    /// The answer, for who asks from `namespace`.
    pub(super) async fn answer(self, view: &View, namespace: Namespace) -> Answer {
        let answer = match self {
            Self::List(list) => self::list(view, namespace, &list).await.map(Answer::from),
            Self::Journal(ask) => {
                let page = page(view, namespace, ask.id, ask.from, ask.limit).await;
                let reply = |(count, entries)| JournalReply { from: ask.from, count, entries };
                page.map(|page| reply(page).into())
            }
            Self::Dead(list) => dead(view, namespace, &list).await.map(Answer::from),
            Self::Stats => Ok(stats(view).into()),
            Self::Letters(ask) => {
                dead_letters::letters(view, namespace, &ask).await.map(Answer::from)
            }
            Self::Audit(ask) => dead_letters::audit(view, namespace, &ask).await.map(Answer::from),
        };
        answer.unwrap_or_else(|reason| RefusedReply { reason }.into())
    }
}

/// A page of the journal of a run that a worker holds, which is this one.
pub(super) async fn journal_page(
    view: &View,
    (namespace, id): (Namespace, RunId),
    ask: JournalPageRequested,
) -> JournalPage {
    match page(view, namespace, id, ask.from, ask.limit).await {
        Ok((_, entries)) => JournalPage { page: ask.page, entries, refused: None },
        Err(reason) => JournalPage { page: ask.page, entries: Vec::new(), refused: Some(reason) },
    }
}

pub(super) fn damaged(error: &Unreadable) -> Refusal {
    Damaged { id: None, what: error.chain() }.into()
}

fn stats(view: &View) -> StatsReply {
    let usage = view.store.usage();
    let stats = Stats {
        disk_bytes: usage.disk_bytes,
        wal_bytes: usage.wal_bytes_written,
        commits: usage.commits,
        ..view.stats.clone()
    };
    StatsReply { stats }
}

fn fits(row: &RunSummary, list: &ListRuns) -> bool {
    list.state.is_none_or(|state| state == row.state)
        && list.workflow.as_ref().is_none_or(|w| *w == row.workflow)
        && list.batch.is_none_or(|batch| row.batch == Some(batch))
}

async fn list(view: &View, namespace: Namespace, list: &ListRuns) -> Result<ListReply, Refusal> {
    let limit = list.limit.clamp(1, PAGE_ROWS_MAX) as usize;
    let mut no = view.newest.0.min(list.before.map_or(u64::MAX, |before| before.saturating_sub(1)));
    let (mut runs, mut looked) = (Vec::new(), 0);
    let until = list.from.unwrap_or_default().saturating_sub(1);
    while no > until && runs.len() < limit && looked < LOOK_MAX {
        // A run that has outlived its retention is not there any more; a damaged one is told by the
        // others' side.
        let found = dead_letters::listed(view.summary_of(RunNo(no)).await, no)?.flatten();
        let wanted = |(of, row): &(Namespace, RunSummary)| *of == namespace && fits(row, list);
        runs.extend(found.filter(wanted).map(|(_, row)| row));
        no -= 1;
        looked += 1;
        tokio::task::yield_now().await;
    }
    Ok(ListReply { runs, next: (no > until).then_some(no + 1) })
}

async fn dead(view: &View, namespace: Namespace, list: &ListRuns) -> Result<ListReply, Refusal> {
    let limit = list.limit.clamp(1, PAGE_ROWS_MAX) as usize;
    let prefix = DeadKey::TABLE.prefix();
    let mut to = tables::end_of(&prefix);
    let (mut runs, mut next) = (Vec::new(), None);
    let mut skipping = list.before;
    'pages: loop {
        let scan = Scan {
            space: DeadKey::SPACE,
            from: prefix.clone(),
            to: to.clone(),
            limit: 256,
            reverse: true,
        };
        let rows = view.store.scan(scan).await.map_err(|e| damaged(&e.into()))?;
        let Some(last) = rows.last() else { break };
        to = last.key.clone();
        for row in &rows {
            let Some(DeadKey { run: no, .. }) = DeadKey::from_bytes(&row.key) else {
                continue;
            };
            if let Some(before) = skipping {
                skipping = (no.0 != before).then_some(before);
                continue;
            }
            if runs.len() >= limit {
                next = runs.last().map(|row: &RunSummary| row.no.0);
                break 'pages;
            }
            let wanted = |(of, row): &(Namespace, RunSummary)| {
                *of == namespace && list.workflow.as_ref().is_none_or(|w| *w == row.workflow)
            };
            let found = dead_letters::listed(view.summary_of(no).await, no)?.flatten();
            runs.extend(found.filter(wanted).map(|(_, row)| row));
            tokio::task::yield_now().await;
        }
    }
    Ok(ListReply { runs, next })
}

/// How many entries a run's journal has, and some of them, verified and without their chain.
async fn page(
    view: &View,
    namespace: Namespace,
    id: RunId,
    from: u32,
    limit: u32,
) -> Result<(u32, Vec<Bytes>), Refusal> {
    let local = |e: Unreadable| damaged(&e);
    let found = store_reader::index(&*view.store, namespace, id).await.map_err(local)?;
    let no = found.ok_or(NoSuchRun { id })?;
    let generation =
        store_reader::generation_of(&*view.store, no, (view.births)(no)).await.map_err(local)?;
    let count = store_reader::count(&*view.store, generation, no).await.map_err(local)?;
    let until = from.saturating_add(limit).min(count);
    let mut chain = match from {
        0 => chain::root(id),
        from if from < until => {
            // It was verified with the page that it was on.
            let before = store_reader::entries(
                &*view.store,
                generation,
                no,
                (from - 1, from),
                JOURNAL_FRAME_BYTES,
            )
            .await;
            let before = before.map_err(local)?;
            let chain = before.first().and_then(|stored| stored.last_chunk::<CHAIN_BYTES>());
            u64::from_le_bytes(chain.copied().unwrap_or_default())
        }
        _ => 0,
    };
    let entries = match from < until {
        true => {
            store_reader::entries(&*view.store, generation, no, (from, until), JOURNAL_FRAME_BYTES)
                .await
                .map_err(local)?
        }
        false => Vec::new(),
    };
    for stored in &entries {
        chain = chain::open(chain, stored).map_err(|e| local(e.into()))?.1;
    }
    let entries: Vec<Bytes> = entries
        .into_iter()
        .map(|stored| stored.slice(..stored.len().saturating_sub(CHAIN_BYTES)))
        .collect();
    Ok((count, entries))
}
