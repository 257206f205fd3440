//! Pages of dead letters and of the audit log, read from the store beside the core.
//!
//! Both are listed by time, newest first, behind the last row of the page before: what comes
//! meanwhile comes in front of it, so no page repeats or leaves out a row. What does not fit a
//! filter is passed over here, a bounded number of rows a page.

use bytes::Bytes;
use stepwell_storage::{Row, Scan, Space};

use super::query::{View, damaged};
use crate::core::run::RunImage;
use crate::model::dead::{AuditCursor, AuditEntry, DeadCursor, DeadFilter, DeadLetter};
use crate::model::entry::Entry;
use crate::model::failure::is_class;
use crate::model::id::{Namespace, ProcessInstance, RunNo};
use crate::model::limits::PAGE_ROWS_MAX;
use crate::model::request::Refusal;
use crate::model::run::Outcome;
use crate::model::time::Time;
use crate::store_reader::{self, Unreadable};
use crate::tables::{
    self, AuditKey, AuditRecord, DeadKey, DeadRecord, FixedSpace, Record, TableKey,
};
use crate::wire::message::{AskAudit, AskLetters, AuditReply, LettersReply};

/// Rows looked at for one page at most; the answer says where to go on.
const LOOK_MAX: usize = 2_000;
/// Rows read at once.
const READ: usize = 256;

/// A scan of a table from the newest row on.
struct Backwards {
    space: Space,
    from: Bytes,
    to: Bytes,
    looked: usize,
}

impl Backwards {
    /// The next rows; none at the end, or once enough has been looked at.
    async fn next(&mut self, view: &View) -> Result<Vec<Row>, Refusal> {
        if self.looked >= LOOK_MAX || self.from >= self.to {
            return Ok(Vec::new());
        }
        let scan = Scan {
            space: self.space,
            from: self.from.clone(),
            to: self.to.clone(),
            limit: READ,
            reverse: true,
        };
        let found = view.store().scan(scan).await;
        let rows = found.map_err(|e| damaged(&e.into()))?;
        self.looked += rows.len();
        if let Some(last) = rows.last() {
            self.to = last.key.clone();
        }
        if rows.len() < READ {
            self.from = self.to.clone(); // nothing is left
        }
        Ok(rows)
    }

    fn has_more(&self) -> bool {
        self.from < self.to
    }
}

pub(super) async fn letters(
    view: &View,
    namespace: Namespace,
    ask: &AskLetters,
) -> Result<LettersReply, Refusal> {
    let limit = ask.limit.clamp(1, PAGE_ROWS_MAX) as usize;
    let filter = &ask.filter;
    let all = DeadKey::TABLE.prefix();
    let from = |died_at| DeadKey { died_at, run: RunNo(0) }.to_bytes();
    let behind = ask.behind.map(|at| DeadKey { died_at: at.died_at, run: at.run }.to_bytes());
    let ends = [Some(tables::end_of(&all)), filter.before.map(from), behind];
    let mut scan = Backwards {
        space: DeadKey::SPACE,
        from: filter.since.map_or(all, from),
        to: ends.into_iter().flatten().min().unwrap_or_default(),
        looked: 0,
    };
    let (mut letters, mut last) = (Vec::new(), None);
    loop {
        let rows = scan.next(view).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            let Some(DeadKey { died_at, run }) = DeadKey::from_bytes(&row.key) else {
                continue;
            };
            last = Some(DeadCursor { died_at, run });
            let found = match DeadRecord::from_bytes(&row.value) {
                Ok(record) if !fits(&record, filter) => continue,
                Ok(_) => letter(view, run, namespace, ask).await,
                Err(error) => Err(error.into()),
            };
            letters.extend(listed(found, run)?.flatten());
            if letters.len() >= limit {
                return Ok(LettersReply { letters, next: last });
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(LettersReply { letters, next: last.filter(|_| scan.has_more()) })
}

/// Whether a row may stand for a letter that is wanted. What older versions wrote does not name its
/// queue.
fn fits(record: &DeadRecord, filter: &DeadFilter) -> bool {
    let is = |wanted: &Option<String>, found: &String| wanted.as_ref().is_none_or(|w| w == found);
    let wanted = filter.class.as_ref();
    let is_wanted_class = wanted.is_none_or(|word| is_class(word, &record.class));
    let queue = record.queue.is_empty() || is(&filter.queue, &record.queue);
    queue && is(&filter.workflow, &record.workflow) && is_wanted_class
}

/// What is damaged is left out, and told by the engine's side: it must hide no other. A store that
/// does not answer is no damaged row.
pub(super) fn listed<T>(
    found: Result<T, Unreadable>,
    what: impl std::fmt::Display,
) -> Result<Option<T>, Refusal> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_local() => {
            tracing::error!(row = %what, error = error.chain(), "not listed");
            Ok(None)
        }
        Err(error) => Err(damaged(&error)),
    }
}

/// The letter of a run, if it is one still, of the right namespace and queue.
async fn letter(
    view: &View,
    no: RunNo,
    namespace: Namespace,
    ask: &AskLetters,
) -> Result<Option<DeadLetter>, Unreadable> {
    let Some(image) = store_reader::image(view.store(), no, view.birth_of(no)).await? else {
        return Ok(None);
    };
    let run = &image.run;
    let wanted = ask.filter.queue.as_ref().is_none_or(|q| *q == run.queue);
    if run.namespace != namespace || !wanted || !run.is_dead_letter() {
        return Ok(None);
    }
    let (process, build) = worker_of(view, &image).await?;
    let Some(Outcome::OutcomeDead(dead)) = &run.ended else {
        return Ok(None);
    };
    Ok(Some(DeadLetter {
        id: run.id,
        name: run.name.clone(),
        no,
        workflow: run.workflow.clone(),
        queue: run.queue.clone(),
        class: dead.failure.class.clone(),
        message: dead.failure.to_string(),
        started_at: run.started_at,
        died_at: run.death.map_or(run.changed_at, |death| death.at),
        entries: run.next,
        process: Some(process).filter(|who| *who != ProcessInstance::default()),
        build,
        redriven: run.redriven,
        edited: run.edited,
    }))
}

/// The worker that a dead letter ran in last: its death tells.
async fn worker_of(view: &View, image: &RunImage) -> Result<(ProcessInstance, String), Unreadable> {
    let Some(death) = image.run.death else {
        return Ok(Default::default());
    };
    let (generation, no, at) = (image.run.generation, image.run.no, death.index);
    let found = store_reader::entries(view.store(), generation, no, (at, at + 1), usize::MAX).await;
    let stored = found?;
    let entry = stored.first().and_then(|stored| store_reader::decode(stored));
    Ok(match entry {
        Some(Entry::Died(died)) => (died.process, died.build),
        _ => Default::default(),
    })
}

pub(super) async fn audit(
    view: &View,
    namespace: Namespace,
    ask: &AskAudit,
) -> Result<AuditReply, Refusal> {
    let limit = ask.limit.clamp(1, PAGE_ROWS_MAX) as usize;
    let end = tables::end_of(&AuditKey::TABLE.prefix());
    let key = |at, number| AuditKey { at, number }.to_bytes();
    let mut scan = Backwards {
        space: AuditKey::SPACE,
        to: ask.behind.map_or(end, |at| key(at.at, at.number)),
        from: key(view.audit_from(), 0),
        looked: 0,
    };
    let (mut entries, mut last) = (Vec::new(), None);
    'pages: loop {
        let rows = scan.next(view).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            let Some(AuditKey { at, number }) = AuditKey::from_bytes(&row.key) else {
                continue;
            };
            if entries.len() >= limit {
                break 'pages;
            }
            last = Some(AuditCursor { at, number });
            let record = AuditRecord::from_bytes(&row.value).map_err(Unreadable::from);
            let wanted = |record: &AuditRecord| {
                let of_run = ask.run.is_none() || record.run == ask.run;
                of_run && record.namespace == namespace
            };
            let record = listed(record, format_args!("audit entry {number}"))?.filter(wanted);
            entries.extend(record.map(|record| act(at, record)));
        }
    }
    let next = last.filter(|_| entries.len() >= limit || scan.has_more());
    Ok(AuditReply { entries, next })
}

fn act(at: Time, record: AuditRecord) -> AuditEntry {
    AuditEntry {
        at,
        principal: record.principal,
        action: record.kind,
        run: record.run,
        subject: record.subject,
        detail: record.detail,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stepwell_storage::{MemDisk, MemOptions, MemStore};

    use super::*;
    use crate::model::failure::Failure;
    use crate::model::request::ListRuns;
    use crate::runtime::client::dead::BulkAction;
    use crate::runtime::engine::EngineOptions;
    use crate::runtime::retry_tests;
    use crate::tables::JournalKey;
    use crate::workflow::{Ctx, Workflow, secs};

    const BREAK: Workflow<u32, u32> = Workflow::new("break");

    // A49: what cannot be read is left out, and the others can be seen and sent back to work.
    #[tokio::test(start_paused = true)]
    async fn a_damaged_dead_letter_hides_no_other() {
        let disk = MemDisk::new();
        let store = MemStore::acquire(&disk, MemOptions::default()).unwrap();
        let options = EngineOptions { socket: false, ..EngineOptions::default() };
        let engine = options.open_on(retry_tests::env(), Arc::new(store)).await.unwrap();
        let fails = |_: Ctx, _: u32| async { Err::<u32, _>(Failure::terminal("broken")) };
        let worker = engine.worker().register(BREAK, fails);
        let worker = worker.queue("default", 1).start().unwrap();
        let client = engine.client();
        for n in 0..3 {
            let run = client.start(BREAK, &n).await.unwrap();
            run.outcome().await.unwrap_err();
        }
        worker.stop();
        tokio::time::sleep(secs(1)).await; // they died before now
        let content = disk.content();
        let of_first = |row: &Row| {
            let key = JournalKey::from_bytes(&row.key);
            key.is_some_and(|key| (key.run, key.entry) == (RunNo(1), 0))
        };
        let second =
            |row: &Row| DeadKey::from_bytes(&row.key).is_some_and(|key| key.run == RunNo(2));
        let mut damaged = 0;
        for (space, row) in content {
            if of_first(&row) || second(&row) {
                let value = Bytes::from_static(&[0xc1]);
                disk.tamper(space, row.key, Some(value));
                damaged += 1;
            }
        }
        assert_eq!(damaged, 2);
        let (letters, next) = client.dead_letters(&DeadFilter::default(), None, 10).await.unwrap();
        let listed: Vec<RunNo> = letters.iter().map(|letter| letter.no).collect();
        assert_eq!((listed, next), (vec![RunNo(3)], None));
        let list = ListRuns { limit: 10, ..ListRuns::default() };
        let (runs, _) = client.dead_list(list).await.unwrap();
        let listed: Vec<RunNo> = runs.iter().map(|run| run.no).collect();
        assert_eq!(listed, [RunNo(3), RunNo(2)]);

        let mut redriven = Vec::new();
        let each = |looked: crate::runtime::client::dead::Looked| {
            redriven.push((looked.letter.no, looked.answer.is_ok()));
        };
        let all = DeadFilter::default();
        client.dead_many(&all, &BulkAction::Redrive, None, each).await.unwrap();
        assert_eq!(redriven, [(RunNo(3), true)]);
    }
}
