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
    AskAudit, AskDead, AskJournal, AskLetters, AskList, AskStats, JournalReply, ListReply, Message,
    RefusedReply, StatsReply,
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

/// A question.
pub(super) enum Query {
    List(AskList),
    Journal(AskJournal),
    Dead(AskDead),
    Stats(AskStats),
    Letters(AskLetters),
    Audit(AskAudit),
}

impl Query {
    /// The question a message asks; any other message comes back.
    pub(super) fn of(message: Message) -> Result<Self, Box<Message>> {
        match message {
            Message::AskList(ask) => Ok(Self::List(ask)),
            Message::AskJournal(ask) => Ok(Self::Journal(ask)),
            Message::AskDead(ask) => Ok(Self::Dead(ask)),
            Message::AskStats(ask) => Ok(Self::Stats(ask)),
            Message::AskLetters(ask) => Ok(Self::Letters(ask)),
            Message::AskAudit(ask) => Ok(Self::Audit(ask)),
            other => Err(Box::new(other)),
        }
    }

    pub(super) async fn answer(self, view: &View) -> Message {
        let (call_number, answer) = match self {
            Self::List(ask) => (
                ask.call_number,
                list(view, ask.caller.namespace, &ask.list, ask.call_number).await,
            ),
            Self::Journal(ask) => (ask.call_number, journal(view, &ask).await),
            Self::Dead(ask) => (
                ask.call_number,
                dead(view, ask.caller.namespace, &ask.list, ask.call_number).await,
            ),
            Self::Stats(ask) => (ask.call_number, Ok(stats(view, ask.call_number))),
            Self::Letters(ask) => (ask.call_number, dead_letters::letters(view, &ask).await),
            Self::Audit(ask) => (ask.call_number, dead_letters::audit(view, &ask).await),
        };
        answer.unwrap_or_else(|reason| RefusedReply { call_number, reason }.into())
    }
}

pub(super) fn damaged(error: &Unreadable) -> Refusal {
    Damaged { id: None, what: error.chain() }.into()
}

fn stats(view: &View, call_number: u64) -> Message {
    let usage = view.store.usage();
    let stats = Stats {
        disk_bytes: usage.disk_bytes,
        wal_bytes: usage.wal_bytes_written,
        commits: usage.commits,
        ..view.stats.clone()
    };
    StatsReply { call_number, stats }.into()
}

fn fits(row: &RunSummary, list: &ListRuns) -> bool {
    list.state.is_none_or(|state| state == row.state)
        && list.workflow.as_ref().is_none_or(|w| *w == row.workflow)
        && list.batch.is_none_or(|batch| row.batch == Some(batch))
}

async fn list(
    view: &View,
    namespace: Namespace,
    list: &ListRuns,
    call_number: u64,
) -> Result<Message, Refusal> {
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
    Ok(ListReply { call_number, runs, next: (no > until).then_some(no + 1) }.into())
}

async fn dead(
    view: &View,
    namespace: Namespace,
    list: &ListRuns,
    call_number: u64,
) -> Result<Message, Refusal> {
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
    Ok(ListReply { call_number, runs, next }.into())
}

async fn journal(view: &View, ask: &AskJournal) -> Result<Message, Refusal> {
    let id: RunId = ask.id;
    let local = |e: Unreadable| damaged(&e);
    let found = store_reader::index(&*view.store, ask.caller.namespace, id).await.map_err(local)?;
    let no = found.ok_or(NoSuchRun { id })?;
    let generation =
        store_reader::generation_of(&*view.store, no, (view.births)(no)).await.map_err(local)?;
    let count = store_reader::count(&*view.store, generation, no).await.map_err(local)?;
    let until = ask.from.saturating_add(ask.limit).min(count);
    let mut chain = match ask.from {
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
    let entries = match ask.from < until {
        true => store_reader::entries(
            &*view.store,
            generation,
            no,
            (ask.from, until),
            JOURNAL_FRAME_BYTES,
        )
        .await
        .map_err(local)?,
        false => Vec::new(),
    };
    for stored in &entries {
        chain = chain::open(chain, stored).map_err(|e| local(e.into()))?.1;
    }
    let entries: Vec<Bytes> = entries
        .into_iter()
        .map(|stored| stored.slice(..stored.len().saturating_sub(CHAIN_BYTES)))
        .collect();
    Ok(JournalReply { call_number: ask.call_number, from: ask.from, count, entries }.into())
}
