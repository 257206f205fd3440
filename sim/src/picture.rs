//! What is drawn of a recording: events joined into lanes, bars, arrows and bands. The page draws
//! them and decides nothing.
//!
//! An arrow joins a frame that was sent with the one that was received: on a connection the n-th
//! frame that goes in is the n-th that comes out, so what never comes out was lost. A bar is a
//! lease, from the commit that began it to the commit that ended it. A band is a fault, from its
//! strike until it is over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, What};
use crate::plan::FaultKind;
use crate::recording::Recording;

/// All that is drawn. Numbers called `event` and the like are places in [`Recording::events`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// The simulation's last instant.
    pub end_ms: u64,
    /// One lane a host: clients, the server, workers.
    pub lanes: Vec<Lane>,
    /// Where frames came from and went to.
    pub arrows: Vec<Arrow>,
    /// Leases.
    pub leases: Vec<Bar>,
    /// Calls of step bodies to the outside world.
    pub calls: Vec<Bar>,
    /// Jobs of clients.
    pub asks: Vec<Bar>,
    /// Batches, from their submission until they are durable, or lost.
    pub batches: Vec<WriteBatch>,
    /// Faults.
    pub bands: Vec<Band>,
    /// What did not hold.
    pub verdicts: Vec<Verdict>,
}

/// A host's lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The host.
    pub host: String,
    /// When its processes lived.
    pub lives: Vec<Life>,
    /// How many bars lie over one another.
    pub rows: u32,
    /// Wall clock offsets: from when on, and how many milliseconds.
    pub clock: Vec<(u64, i64)>,
}

/// One process of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Its number.
    pub life: u32,
    /// Its beginning.
    pub from_ms: u64,
    /// Its end, unless it lives in the end.
    pub to_ms: Option<u64>,
    /// How it ended.
    pub how: String,
}

/// A frame's way: the event that sent it, the one that received it if it was not lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrow(pub usize, pub Option<usize>);

/// Something that lasts, in a host's lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// The event it begins with.
    pub began: usize,
    /// The event it ends with; none if it is open in the end, or ended with its host.
    pub ended: Option<usize>,
    /// Where it is drawn.
    pub host: String,
    /// Its beginning.
    pub from_ms: u64,
    /// Its end; none if it is open in the end.
    pub to_ms: Option<u64>,
    /// Its row in the lane.
    pub row: u32,
    /// For a call: the instant of its effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect_ms: Option<u64>,
}

/// A batch of writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteBatch {
    /// The event that submitted it.
    pub submitted: usize,
    /// The commit that covers it; none if it never became durable.
    pub committed: Option<usize>,
    /// When it became durable, or was known to be lost.
    pub to_ms: Option<u64>,
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Band {
    /// The event it strikes with.
    pub struck: usize,
    /// Its beginning.
    pub from_ms: u64,
    /// Its end.
    pub to_ms: u64,
    /// Its row among the faults.
    pub row: u32,
}

/// A violation and where it is pinned to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The property.
    pub checker: String,
    /// What was found.
    pub text: String,
    /// When it was noticed.
    pub noticed_ms: u64,
    /// The event it is pinned to: what the checker was looking at, or the last thing known of the
    /// run it names.
    pub event: usize,
    /// Whether it was found when all was over.
    pub in_the_end: bool,
    /// The runs it names.
    pub runs: Vec<String>,
}

impl Picture {
    /// Joins the events of a recording.
    pub fn of(recording: &Recording) -> Self {
        let events = &recording.events;
        let end_ms = events
            .iter()
            .map(|event| event.at_ms)
            .chain([recording.report.simulated_ms])
            .max()
            .unwrap_or_default();
        let mut lanes = lanes(events);
        let mut leases = leases(events);
        let mut asks = asks(events);
        for lane in &mut lanes {
            let rows = stack(&mut leases, &lane.host).max(stack(&mut asks, &lane.host));
            lane.rows = rows.max(1);
        }
        let calls = calls(events, &leases, &lanes);
        Self {
            end_ms,
            arrows: arrows(events),
            batches: batches(events),
            bands: bands(events, &lanes, end_ms),
            verdicts: verdicts(recording),
            lanes,
            leases,
            calls,
            asks,
        }
    }
}

/// Clients first, then the server, then workers: so that a frame crosses as few lanes as can be.
fn place_of(host: &str) -> (u8, String) {
    let class = match host {
        host if host.starts_with("client") => 0,
        "server" => 1,
        _ => 2,
    };
    (class, host.to_owned())
}

fn lanes(events: &[Event]) -> Vec<Lane> {
    let mut lanes = BTreeMap::new();
    for event in events.iter().filter(|event| !event.host.is_empty()) {
        let lane = lanes.entry(place_of(&event.host)).or_insert_with(|| Lane {
            host: event.host.clone(),
            lives: Vec::new(),
            rows: 1,
            clock: Vec::new(),
        });
        match &event.what {
            What::LifeBegan => {
                end_life(lane, event.at_ms, "it ended by itself");
                lane.lives.push(Life {
                    life: event.life,
                    from_ms: event.at_ms,
                    to_ms: None,
                    how: String::new(),
                });
            }
            What::LifeEnded { how } => end_life(lane, event.at_ms, how),
            What::Clock { offset_ms } => lane.clock.push((event.at_ms, *offset_ms)),
            _ => {}
        }
    }
    lanes.into_values().collect()
}

fn end_life(lane: &mut Lane, at_ms: u64, how: &str) {
    if let Some(life) = lane.lives.last_mut().filter(|life| life.to_ms.is_none()) {
        life.to_ms = Some(at_ms);
        how.clone_into(&mut life.how);
    }
}

fn arrows(events: &[Event]) -> Vec<Arrow> {
    // From whom, on which connection, which number: to a place among the arrows.
    let (mut arrows, mut sent) = (Vec::<Arrow>::new(), BTreeMap::new());
    for (at, event) in events.iter().enumerate() {
        match &event.what {
            What::Sent(frame) => {
                let key = (event.host.as_str(), frame.connection, frame.number);
                sent.insert(key, arrows.len());
                arrows.push(Arrow(at, None));
            }
            What::Received { peer, connection, number } => {
                if let Some(arrow) = sent.get(&(peer.as_str(), *connection, *number)) {
                    arrows[*arrow].1 = Some(at);
                }
            }
            _ => {}
        }
    }
    arrows
}

fn bar(began: usize, event: &Event, host: &str) -> Bar {
    Bar {
        began,
        ended: None,
        host: host.to_owned(),
        from_ms: event.at_ms,
        to_ms: None,
        row: 0,
        effect_ms: None,
    }
}

fn end(bar: &mut Bar, at: usize, event: &Event) {
    bar.ended = Some(at);
    bar.to_ms = Some(event.at_ms);
}

fn leases(events: &[Event]) -> Vec<Bar> {
    let (mut bars, mut open) = (Vec::new(), BTreeMap::new());
    for (at, event) in events.iter().enumerate() {
        match &event.what {
            What::LeaseBegan { run, token, holder } => {
                open.insert((run, token), bars.len());
                bars.push(bar(at, event, holder));
            }
            What::LeaseEnded { run, token, .. } => {
                if let Some(known) = open.remove(&(run, token)) {
                    end(&mut bars[known], at, event);
                }
            }
            _ => {}
        }
    }
    bars
}

fn asks(events: &[Event]) -> Vec<Bar> {
    let (mut bars, mut open) = (Vec::new(), BTreeMap::new());
    for (at, event) in events.iter().enumerate() {
        match &event.what {
            What::Asked { job, .. } => {
                open.insert((event.host.as_str(), *job), bars.len());
                bars.push(bar(at, event, &event.host));
            }
            What::Settled { job } => {
                if let Some(known) = open.remove(&(event.host.as_str(), *job)) {
                    end(&mut bars[known], at, event);
                }
            }
            What::LifeEnded { .. } => {
                for known in of_host(&mut open, &event.host) {
                    bars[known].to_ms = Some(event.at_ms);
                }
            }
            _ => {}
        }
    }
    bars
}

/// What was open on a host, taken out.
fn of_host<K: Ord + Clone>(open: &mut BTreeMap<(&str, K), usize>, host: &str) -> Vec<usize> {
    let keys: Vec<_> = open.keys().filter(|key| key.0 == host).cloned().collect();
    keys.iter().filter_map(|key| open.remove(key)).collect()
}

/// Calls lie on the leases under which they are made.
fn calls(events: &[Event], leases: &[Bar], lanes: &[Lane]) -> Vec<Bar> {
    let (mut bars, mut open) = (Vec::new(), BTreeMap::new());
    let mut rows: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let begun: BTreeMap<usize, &Bar> = leases.iter().map(|lease| (lease.began, lease)).collect();
    for (at, event) in events.iter().enumerate() {
        match &event.what {
            What::LeaseBegan { run, .. } => {
                if let Some(lease) = begun.get(&at) {
                    rows.insert((lease.host.as_str(), run), lease.row);
                }
            }
            What::CallBegan { call, run, .. } => {
                open.insert((event.host.as_str(), *call), bars.len());
                let row = rows.get(&(event.host.as_str(), run.as_str()));
                bars.push(Bar {
                    row: row.copied().unwrap_or_default(),
                    ..bar(at, event, &event.host)
                });
            }
            What::CallEffect { call, .. } => {
                if let Some(known) = open.get(&(event.host.as_str(), *call)) {
                    let effect: &mut Bar = &mut bars[*known];
                    effect.effect_ms = Some(event.at_ms);
                }
            }
            What::CallEnded { call, .. } => {
                if let Some(known) = open.remove(&(event.host.as_str(), *call)) {
                    end(&mut bars[known], at, event);
                }
            }
            What::LifeEnded { .. } => {
                for known in of_host(&mut open, &event.host) {
                    bars[known].to_ms = Some(event.at_ms);
                }
            }
            _ => {}
        }
    }
    // A life that ended without a word took its calls with it.
    for bar in bars.iter_mut().filter(|bar| bar.to_ms.is_none()) {
        let lane = lanes.iter().find(|lane| lane.host == bar.host);
        let lives = lane.map_or(&[][..], |lane| &lane.lives);
        bar.to_ms = lives
            .iter()
            .find(|life| life.life == events[bar.began].life)
            .and_then(|life| life.to_ms);
    }
    bars
}

/// Gives the bars of a host rows in which they do not overlap; tells how many.
fn stack(bars: &mut [Bar], host: &str) -> u32 {
    let mut free_from: Vec<u64> = Vec::new();
    for bar in bars.iter_mut().filter(|bar| bar.host == host) {
        let row = free_from.iter().position(|free| *free <= bar.from_ms).unwrap_or(free_from.len());
        if row == free_from.len() {
            free_from.push(0);
        }
        free_from[row] = bar.to_ms.map_or(u64::MAX, |to_ms| to_ms + 1);
        bar.row = row as u32;
    }
    free_from.len() as u32
}

fn batches(events: &[Event]) -> Vec<WriteBatch> {
    let (mut batches, mut open) = (Vec::<WriteBatch>::new(), BTreeMap::new());
    for (at, event) in events.iter().enumerate() {
        match &event.what {
            What::Submitted { seq, .. } => {
                // The number is given again after a crash: what had it before is lost.
                open.insert(*seq, batches.len());
                batches.push(WriteBatch { submitted: at, committed: None, to_ms: None });
            }
            What::Committed { seq, .. } => {
                let later = open.split_off(&(seq + 1));
                for covered in std::mem::replace(&mut open, later).into_values() {
                    batches[covered].committed = Some(at);
                    batches[covered].to_ms = Some(event.at_ms);
                }
            }
            // What the disk has kept all the same, the next life is told of.
            What::LifeEnded { .. } if event.host == "server" => {
                for known in open.values() {
                    batches[*known].to_ms = Some(event.at_ms);
                }
            }
            _ => {}
        }
    }
    batches
}

fn bands(events: &[Event], lanes: &[Lane], end_ms: u64) -> Vec<Band> {
    let mended =
        events.iter().find(|event| event.what == What::Mended).map_or(end_ms, |event| event.at_ms);
    let mut bands: Vec<Band> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let What::FaultStruck { kind, other, span_ms, .. } = &event.what else {
            continue;
        };
        let over = |later: &Event| match &later.what {
            What::FaultOver { kind: k, other: o } => {
                k == kind && o == other && later.host == event.host
            }
            _ => false,
        };
        let planned = (event.at_ms + span_ms).min(mended.max(event.at_ms));
        let to_ms = match kind {
            FaultKind::SyncFailed => event.at_ms,
            FaultKind::WorkerDrained => lanes
                .iter()
                .filter(|lane| lane.host == event.host)
                .flat_map(|lane| &lane.lives)
                .find(|life| life.life == event.life)
                .and_then(|life| life.to_ms)
                .unwrap_or(event.at_ms),
            _ => events[at..].iter().find(|later| over(later)).map_or(planned, |later| later.at_ms),
        };
        bands.push(Band { struck: at, from_ms: event.at_ms, to_ms, row: 0 });
    }
    let mut free_from: Vec<u64> = Vec::new();
    for band in &mut bands {
        let row =
            free_from.iter().position(|free| *free <= band.from_ms).unwrap_or(free_from.len());
        if row == free_from.len() {
            free_from.push(0);
        }
        // Room for a name.
        free_from[row] = band.to_ms.max(band.from_ms + 400);
        band.row = row as u32;
    }
    bands
}

fn verdicts(recording: &Recording) -> Vec<Verdict> {
    let events = &recording.events;
    let mut used = vec![false; events.len()];
    let mut found = Vec::new();
    for violation in &recording.report.violations {
        let at = events.iter().enumerate().position(|(at, event)| {
            !used[at]
                && matches!(&event.what, What::Violated { checker, text }
                    if *checker == violation.checker && *text == violation.text)
        });
        if let Some(at) = at {
            used[at] = true;
        }
        let before = at.unwrap_or(events.len());
        let real = |event: &Event| !matches!(event.what, What::Violated { .. });
        let looked_at = events[..before].iter().rposition(real);
        let in_the_end = !events[before..].iter().any(real);
        let runs: Vec<String> = recording
            .journals
            .iter()
            .filter(|journal| {
                let number = format!("run {}", journal.number);
                names(&violation.text, &journal.run) || names(&violation.text, &number)
            })
            .map(|journal| journal.run.clone())
            .collect();
        // What is found when all is over is not about the last event, but about the run.
        let last_of_run = || {
            events.iter().rposition(|event| {
                matches!(event.what, What::EntryDurable { .. })
                    && event.what.runs().iter().any(|run| runs.contains(run))
            })
        };
        let event = match in_the_end {
            true => last_of_run().or(looked_at),
            false => looked_at,
        };
        found.push(Verdict {
            checker: violation.checker.clone(),
            text: violation.text.clone(),
            noticed_ms: violation.at_ms,
            event: event.unwrap_or_default(),
            in_the_end,
            runs,
        });
    }
    found
}

/// Whether a text holds a name, as a whole.
fn names(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    !name.is_empty()
        && text.match_indices(name).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + name.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
}
