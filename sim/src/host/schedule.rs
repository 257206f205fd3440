//! What clients do with schedules.

use stepwell::model::request::Refusal;
use stepwell::model::schedule::ScheduleSpec;
use stepwell::{Client, ClientError, Overlap, Time};

use super::client::{again, payload_of, wrong};
use crate::plan::{Job, Scheduled};
use crate::world::Host;

/// Occurrences asked for in one page of a backfill.
const PAGE: u32 = 20;

/// A job that is about a schedule.
pub(super) async fn ask(host: &Host, client: &Client, job: Job) {
    let schedules = client.schedules();
    let answer = match job {
        Job::SetSchedule(schedule) => return set(host, client, &schedule).await,
        Job::Backfill { name, back_ms } => backfill(client, &name, back_ms).await,
        Job::PauseSchedule { name } => schedules.pause(&name).await.map(|_| ()),
        Job::ResumeSchedule { name } => schedules.resume(&name).await.map(|_| ()),
        Job::RemoveSchedule { name } => schedules.remove(&name).await,
        _ => Ok(()),
    };
    match answer {
        Ok(()) => host.world.saw("schedules changed"),
        Err(ClientError::Refused(Refusal::NoSuchSchedule(_))) => {}
        Err(ClientError::Refused(refusal)) => {
            wrong(host, format!("a schedule was refused: {refusal}"));
        }
        Err(_) => host.world.saw("changes of schedules with unknown outcome"),
    }
}

async fn set(host: &Host, client: &Client, schedule: &Scheduled) {
    loop {
        match builder(client, schedule).set().await {
            Ok(set) => {
                // Asked for again after a lost answer, it is told how the schedule is by then.
                let as_asked = !set.changed || is_as_asked(&set.schedule.spec, schedule);
                if !as_asked {
                    wrong(host, format!("`{}` is set to something else", schedule.name));
                }
                return host.world.saw("schedules set");
            }
            // It was set, and somebody removed it before the answer came, which was asked for
            // again.
            Err(ClientError::Refused(Refusal::NoSuchSchedule(_))) => return,
            Err(ClientError::Refused(refusal)) => {
                return wrong(host, format!("`{}` was refused: {refusal}", schedule.name));
            }
            Err(_) => again(host).await,
        }
    }
}

fn builder(client: &Client, schedule: &Scheduled) -> stepwell::ScheduleBuilder {
    let ms = std::time::Duration::from_millis;
    let (name, input) = (&schedule.name, payload_of(&schedule.work));
    let builder = client
        .schedule_raw(name, &schedule.work.workflow, input)
        .overlap(schedule.overlap.parse::<Overlap>().unwrap_or_default())
        .jitter(ms(schedule.jitter_ms))
        .catch_up(ms(schedule.catch_up_ms));
    match &schedule.cron {
        Some(cron) => builder.cron(cron).zone(&schedule.zone),
        None => builder.every(ms(schedule.every_ms)),
    }
}

fn is_as_asked(spec: &ScheduleSpec, schedule: &Scheduled) -> bool {
    spec.name == schedule.name
        && spec.input == payload_of(&schedule.work)
        && spec.overlap.as_str() == schedule.overlap
        && spec.jitter_ms == schedule.jitter_ms
}

/// Starts what is missing up to when the schedule was last written: that has passed by the engine's
/// clock. (The engine's counts tell its clock, too, but also the bytes on its disk, which are
/// others on each store.)
async fn backfill(client: &Client, name: &str, back_ms: u64) -> Result<(), ClientError> {
    let to = client.schedules().show(name).await?.state.at;
    let mut from = Time(to.0.saturating_sub(back_ms));
    loop {
        let page = client.schedules().backfill(name, from, to, PAGE).await?;
        match page.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// Removes all schedules that are there, so that everything can end.
pub(super) async fn remove_all(host: &Host, client: &Client) {
    let names: Vec<String> = {
        let checkers = host.world.checkers();
        let schedules = checkers.durable.schedules.values();
        schedules.map(|schedule| schedule.record.spec.name.clone()).collect()
    };
    for name in names {
        let _ = client.schedules().remove(&name).await;
    }
}
