//! Scenarios as text: what happens, four dashes, the exact writes and actions.
//!
//! The files are in `scenarios/`. With `UPDATE_SCENARIOS=1` they are rewritten to what the core
//! does; look at the difference before you keep it.
//!
//! Each input is followed until nothing is left to do, unless it begins with `~`. The language:
//!
//! ```text
//! worker a build=b1 workflows=order queues=q:2 held=r1@1.1:2     a worker process says hello (again) and registers
//! hello a process=p protocols=2..3 | register a build=b1 …        one of both only
//! client c                                                      a client says hello
//! start r1 workflow=order queue=q priority=0 delay=5s input=x   and name=…; more than one: `start r1 r2`
//! … unique=k:running atomic                                     also `:queued`, `:5s`; an atomic start
//! … batch=b seal then=x                                          runs of a batch, which `x` follows; `batch b` asks
//! step r1 0 | fail r1 0 | timer r1 1 delay=3s                    reports, by the holder under its token
//! memo r1 0 key=k | release r1 0 | step r1 0 key=k               of a memoized step
//! complete r1 | failed r1 | suspend r1 seen=2 wakes=3s memos=0,1 | mismatch r1 | requeue r1
//! queue q create paused=yes concurrency=2 rate=3/1s burst=2 oldest=4    an operator sets something (request=7); queues q   asks
//! cancel r1 | resume r1 | outcome r1 wait | status r1            what clients ask
//! redrive r1 request=7 | edit r1 input=y | discard r1           what operators do
//! offer a queues=q:0 | beat a | close a goodbye | wait 5s | wall +3h | crash | reopen
//! ~read | ~answer | ~commit                                     does one read, tells one answer, syncs the disk
//! die                                                           syncs the disk and dies before anything leaves
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stepwell_storage::{Op, Store, block_on};

use super::invariants::Invariants;
use super::output::{Action, Note};
use super::stepped_core::SteppedCore;
use super::{Input, Settings};
use crate::model::chain::CHAIN_BYTES;
use crate::model::entry::{Entry, FunctionEnd, SourceLocation};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::{
    CommandIndex, LeaseNo, MemoKey, Namespace, ProcessInstance, RequestId, RunId, RunNo, SessionId,
    Token,
};
use crate::model::payload::Payload;
use crate::model::queue::{QueueChange, QueueSettings, QueueSummary, RateLimit};
use crate::model::request::{Caller, Refusal, StartRun};
use crate::model::retry::Retry;
use crate::model::run::{Outcome, RunState};
use crate::model::time::Time;
use crate::model::unique::{Unique, UniqueKey};
use crate::tables::batch::BatchRecord;
use crate::tables::expiry::ExpiryKey;
use crate::tables::journal::JournalRow;
use crate::tables::memo::MemoRecord;
use crate::tables::{
    AppliedRequestKey, AuditKey, DeadKey, DeadRecord, FollowUpKey, GenerationKey, JournalKey,
    LeaseKey, Mark, MarkKey, MovedKey, OpenBatchKey, PoolKey, PoolRecord, QueueKey, QueueRecord,
    QueuedKey, Record, ScheduleKey, ScheduleStateKey, StoppedKey, Table, TableChange, Tally,
    TallyKey, TimerKey,
};
use crate::wire::message::{
    Answered, Answer, AskBatch, AskOutcome, AskQueues, AskStatus, AtomicStart, AttemptFailedReport, Cancel,
    Discard, EditInput, Heartbeat, Held, Hello, MemoReleased, MemoRequested, Message, Offer,
    QueueSlots, Redrive, Register, Reply, Requeue, Resume, SetQueue, Start, StartAnswer,
    StartBatch, StepCompletedReport, TimerRequested, TurnCompleted, TurnFailed, TurnMismatched,
    TurnSuspended, WorkflowOffer, call_as,
};

const START: Time = Time(20_000 * 86_400_000);

#[test]
fn scenarios_do_exactly_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core/scenarios");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut failures = String::new();
    for file in files {
        let expected = std::fs::read_to_string(&file).unwrap();
        let found = play(&expected);
        if found == expected {
            continue;
        }
        if std::env::var("UPDATE_SCENARIOS").is_ok_and(|value| value == "1") {
            std::fs::write(&file, found).unwrap();
        } else {
            let _ = write!(failures, "{}\n{}", file.display(), difference(&expected, &found));
        }
    }
    assert!(
        failures.is_empty(),
        "the core does something else (UPDATE_SCENARIOS=1 rewrites):\n{failures}"
    );
}

fn difference(expected: &str, found: &str) -> String {
    let mut text = String::new();
    let (expected, found): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), found.lines().collect());
    let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let tail = |lines: &[&str], sign: &str, text: &mut String| {
        for line in lines.iter().skip(same).take(12) {
            let _ = writeln!(text, "  {sign} {line}");
        }
    };
    let _ = writeln!(text, "  from line {}", same + 1);
    tail(&expected, "-", &mut text);
    tail(&found, "+", &mut text);
    text
}

/// Plays a file; gives the file as it should be.
fn play(text: &str) -> String {
    let mut scene = Scene::new();
    let mut played = String::new();
    let mut inputs: Vec<&str> = Vec::new();
    let mut skipping = false;
    for line in text.lines() {
        if skipping {
            skipping = !line.is_empty();
        } else if line == "----" {
            skipping = true;
            let answer = scene.play(&inputs);
            inputs.clear();
            let _ = writeln!(played, "----\n{answer}");
        } else {
            if !line.is_empty() && !line.starts_with('#') {
                inputs.push(line);
            }
            let _ = writeln!(played, "{line}");
        }
    }
    assert!(inputs.is_empty(), "inputs without dashes: {inputs:?}");
    format!("{}\n", played.trim_end())
}

/// What is set, if anything is.
fn settings_text(settings: &QueueSettings) -> String {
    let parts = [
        settings.paused.then(|| " paused".to_owned()),
        settings.concurrency.map(|limit| format!(" concurrency={limit}")),
        settings.rate.map(|rate| format!(" rate={rate}")),
        settings.oldest_every.map(|every| format!(" oldest={every}")),
    ];
    parts.into_iter().flatten().collect()
}

fn queue_text(queue: &QueueSummary) -> String {
    let oldest = queue.oldest_since.map(|since| format!(" oldest={}", at(since)));
    let reasons = match queue.reasons.is_empty() {
        true => String::new(),
        false => format!(" ({})", queue.reasons.join(", ")),
    };
    format!(
        "{} queued={} running={} delayed={} suspended={}{} slots={}{}{reasons}",
        queue.name,
        queue.queued,
        queue.running,
        queue.delayed,
        queue.suspended,
        oldest.unwrap_or_default(),
        queue.slots,
        settings_text(&queue.settings),
    )
}

fn tags(line: &ScenarioLine<'_>) -> Vec<String> {
    let tags = line.text("tags", "").split(',');
    tags.filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// What a line says besides its words.
struct ScenarioLine<'a> {
    words: Vec<&'a str>,
    fields: BTreeMap<&'a str, &'a str>,
}

impl<'a> ScenarioLine<'a> {
    fn of(text: &'a str) -> Self {
        let (mut words, mut fields) = (Vec::new(), BTreeMap::new());
        for part in text.split_whitespace() {
            match part.split_once('=') {
                Some((field, value)) => {
                    fields.insert(field, value);
                }
                None => words.push(part),
            }
        }
        Self { words, fields }
    }

    fn word(&self, at: usize) -> &'a str {
        self.words.get(at).copied().unwrap_or_else(|| panic!("word {at} of {:?}", self.words))
    }

    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn text(&self, field: &str, default: &'a str) -> &'a str {
        self.fields.get(field).copied().unwrap_or(default)
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, field: &str, default: T) -> T {
        self.fields.get(field).map_or(default, |text| text.parse().unwrap())
    }

    fn span(&self, field: &str) -> Duration {
        self.fields.get(field).map_or(Duration::ZERO, |text| span(text))
    }
}

fn span(text: &str) -> Duration {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().unwrap();
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        other => panic!("unit {other}"),
    };
    Duration::from_millis((number * unit * 1e3).round() as u64)
}

struct Scene {
    /// Not after an opening that was refused.
    open: bool,
    stepped: SteppedCore,
    invariants: Invariants,
    /// By name.
    sessions: BTreeMap<String, SessionId>,
    names: BTreeMap<SessionId, String>,
    processes: BTreeMap<String, ProcessInstance>,
    next_session: u64,
    next_request: u64,
    tokens: BTreeMap<RunNo, (Token, SessionId)>,
    runs: BTreeMap<RunNo, String>,
    queues: BTreeMap<u32, String>,
    told: String,
}

fn run_id(name: &str) -> RunId {
    RunId(
        name.strip_prefix('r')
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("a run's name: {name}")),
    )
}

fn is_run(word: &str) -> bool {
    word.strip_prefix('r').is_some_and(|digits| digits.parse::<u128>().is_ok())
}

fn run_name(id: RunId) -> String {
    match id.0 {
        short @ 0..1_000_000 => format!("r{short}"),
        _ => "what follows".to_owned(), // made of a batch's name
    }
}

fn unique(line: &ScenarioLine<'_>) -> Option<UniqueKey> {
    let (key, scope) = line.fields.get("unique")?.split_once(':')?;
    let scope = match scope {
        "started" => Unique::UntilStarted,
        "ended" => Unique::UntilEnded,
        ttl => Unique::For(span(ttl)),
    };
    Some(UniqueKey::new(key, scope))
}

fn caller() -> Caller {
    Caller { principal: "ann".to_owned(), ..Caller::default() }
}

fn deaths_text(deaths: u32) -> String {
    if deaths > 0 { format!(" deaths={deaths}") } else { String::new() }
}

fn tally_text(tally: &Tally) -> String {
    let counts = RunState::ALL.iter().zip(&tally.runs).filter(|(_, count)| **count > 0);
    counts.fold(String::new(), |text, (state, count)| format!("{text} {state}={count}"))
}

fn mark_text(mark: &Mark) -> String {
    let heads = mark.heads.iter();
    let heads = heads.map(|(queue, priority, head)| format!(" {queue}/{priority}:{head}"));
    let heads: String = heads.collect();
    format!(" time={} timers={} rest={}{heads}", at(mark.time), at(mark.timers), mark.rest)
}

fn pool_text(pool: &PoolRecord) -> String {
    let counts =
        [("queued", pool.queued), ("delayed", pool.delayed), ("suspended", pool.suspended)];
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let counts: String = counts.map(|(what, count)| format!(" {what}={count}")).collect();
    match pool.at {
        Time(0) => counts,
        then => format!("{counts} level={} at={}", pool.level, at(then)),
    }
}

fn batch_text(record: &BatchRecord) -> String {
    let counts = record.counts;
    let sealed = if record.sealed { " sealed" } else { "" };
    let follow_up = record.follow_up.map_or("", |_| ", and it is followed");
    format!(
        " {}{sealed} {} of {} ended: {} completed, {} dead, {} cancelled{follow_up}",
        record.name,
        counts.ended(),
        counts.total,
        counts.completed,
        counts.dead,
        counts.cancelled
    )
}

fn at(time: Time) -> String {
    if time == Time::NEVER {
        return "never".to_owned();
    }
    let ms = time.0 as i64 - START.0 as i64;
    match ms {
        _ if time == Time(0) => "never".to_owned(),
        _ if ms % 86_400_000 == 0 && ms != 0 => format!("{}d", ms / 86_400_000),
        _ if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        _ => format!("{}.{:03}s", ms / 1_000, ms % 1_000),
    }
}

impl Scene {
    fn new() -> Self {
        Self {
            open: true,
            stepped: SteppedCore::new(Settings::default(), START),
            invariants: Invariants::default(),
            sessions: BTreeMap::new(),
            names: BTreeMap::new(),
            processes: BTreeMap::new(),
            next_session: 0,
            next_request: 0,
            tokens: BTreeMap::new(),
            runs: BTreeMap::new(),
            queues: BTreeMap::new(),
            told: String::new(),
        }
    }

    fn play(&mut self, inputs: &[&str]) -> String {
        for input in inputs {
            let line = ScenarioLine::of(input.trim_start_matches('~'));
            self.follow(&line);
            if self.open && !input.starts_with('~') {
                self.settle();
            }
        }
        if self.open {
            self.settle();
            self.invariants(inputs.contains(&"crash"));
        }
        match std::mem::take(&mut self.told) {
            told if told.is_empty() => "nothing\n".to_owned(),
            told => told,
        }
    }

    fn invariants(&mut self, crashed: bool) {
        let (now, settings) = (self.stepped.core.now(), self.stepped.settings);
        let retention = (settings.retention, settings.dead_retention);
        self.invariants.check(&self.stepped.store, now, retention, crashed);
    }

    fn follow(&mut self, line: &ScenarioLine<'_>) {
        match line.word(0) {
            "settings" => self.set(line),
            "worker" => {
                self.hello(line);
                self.register(line);
            }
            "hello" | "client" => self.hello(line),
            "register" => self.register(line),
            "start" => self.start(line),
            "memo" | "release" | "step" | "fail" | "timer" | "suspend" | "complete" | "failed"
            | "mismatch" | "requeue" => self.report(line),
            "cancel" | "resume" | "outcome" | "status" => self.ask(line),
            "queue" => self.set_queue(line),
            "queues" => {
                let (by, call_number) = self.client(line);
                let queue = line.words.get(1).map(|name| (*name).to_owned());
                self.hear(&by, call_as(call_number, caller(), AskQueues { queue }));
            }
            "redrive" | "edit" | "discard" => self.operate(line),
            "batch" => {
                let (by, call_number) = self.client(line);
                let (caller, name) = (caller(), line.word(1).to_owned());
                let ask = call_as(call_number, caller, AskBatch { name });
                self.hear(&by, ask);
            }
            "offer" => self.hear(line.word(1), Offer { queues: queues(line) }),
            "beat" => self.hear(line.word(1), Heartbeat { beat: 0 }),
            "close" => {
                let session = self.sessions[line.word(1)];
                self.stepped.handle(Input::SessionClosed { session, goodbye: line.has("goodbye") });
            }
            "wait" => {
                self.stepped.pass(span(line.word(1)));
                self.stepped.handle(Input::Ticked);
            }
            "wall" => self.turn_wall(line.word(1)),
            "crash" => {
                self.stepped.flush();
                self.reopen(true);
            }
            "die" => {
                // All is durable, and nothing of what was to be done then is.
                self.flush();
                self.stepped.commit();
                self.reopen(true);
            }
            "reopen" => self.reopen(false),
            "read" => {
                self.flush();
                self.stepped.read(0);
            }
            "answer" => {
                self.stepped.answer(line.words.get(1).map_or(0, |pick| pick.parse().unwrap()))
            }
            "commit" => {
                self.flush();
                self.commit();
            }
            other => panic!("{other}?"),
        }
    }

    fn set(&mut self, line: &ScenarioLine<'_>) {
        let settings = &mut self.stepped.settings;
        let limits = &mut settings.limits;
        limits.journal_entries_max = line.number("entries_max", limits.journal_entries_max);
        limits.journal_entries_warn = line.number("entries_warn", limits.journal_entries_warn);
        limits.payload_bytes_max = line.number("payload_max", limits.payload_bytes_max);
        settings.workers_die_with_engine |= line.has("embedded");
        settings.accept_clock |= line.has("accept_clock");
        if line.fields.contains_key("retention") {
            settings.retention = line.span("retention");
            settings.dead_retention = settings.retention;
        }
        if line.fields.contains_key("dead_retention") {
            settings.dead_retention = line.span("dead_retention");
        }
        if line.fields.contains_key("unregistered") {
            settings.unregistered_workflow_after = line.span("unregistered");
        }
        self.reopen(false);
    }

    fn reopen(&mut self, crash: bool) {
        let opened = if crash { self.stepped.crash(0) } else { self.stepped.reopen() };
        match opened {
            Ok(()) => {
                self.open = true;
                let epoch = self.stepped.core.stats().epoch;
                let _ =
                    writeln!(self.told, "open epoch={epoch} now={}", at(self.stepped.core.now()));
            }
            Err(refused) => {
                self.open = false;
                let _ = writeln!(self.told, "refused: {refused}");
            }
        }
    }

    fn turn_wall(&mut self, by: &str) {
        let wall = self.stepped.wall;
        self.stepped.wall = match by.split_at(1) {
            ("+", by) => wall.after(span(by)),
            (_, by) => Time(wall.0 - span(by).as_millis() as u64),
        };
        if self.open {
            self.stepped.handle(Input::Ticked);
        }
    }

    fn hello(&mut self, line: &ScenarioLine<'_>) {
        let name = line.word(1).to_owned();
        self.next_session += 1;
        let session = SessionId(self.next_session);
        let next = ProcessInstance(self.processes.len() as u128 + 1);
        let process =
            *self.processes.entry(line.text("process", line.word(1)).to_owned()).or_insert(next);
        self.sessions.insert(name.clone(), session);
        self.names.insert(session, name);
        let protocols = line.text("protocols", "2..2").split_once("..").unwrap();
        let message = Hello {
            protocol_min: protocols.0.parse().unwrap(),
            protocol_max: protocols.1.parse().unwrap(),
            ..Hello::test(process, line.text("principal", "ann"))
        };
        self.stepped.handle(Input::Received { session, message: message.into() });
    }

    fn register(&mut self, line: &ScenarioLine<'_>) {
        let session = self.sessions[line.word(1)];
        let offer = |workflow: &str| WorkflowOffer::test(workflow);
        let workflows = line.text("workflows", "order").split(',');
        let message = Register {
            build: line.text("build", "b1").to_owned(),
            workflows: workflows.filter(|name| !name.is_empty()).map(offer).collect(),
            queues: queues(line),
            held: line
                .text("held", "")
                .split(',')
                .filter(|held| !held.is_empty())
                .map(|held| self.held(held))
                .collect(),
            tags: tags(line),
        };
        self.stepped.handle(Input::Received { session, message: message.into() });
    }

    /// `r1@1.1:2`: the run, the token, entries seen.
    fn held(&self, text: &str) -> Held {
        let (run, rest) = text.split_once('@').unwrap();
        let (token, seen) = rest.split_once(':').unwrap();
        Held { run: self.run_no(run), token: self.token(token), seen: seen.parse().unwrap() }
    }

    fn token(&self, text: &str) -> Token {
        let (epoch, lease) = text.split_once('.').unwrap();
        let store = self.stepped.store.identity().store.0;
        Token { store, epoch: epoch.parse().unwrap(), lease: LeaseNo(lease.parse().unwrap()) }
    }

    fn run_no(&self, name: &str) -> RunNo {
        let found =
            self.runs.iter().filter(|(_, known)| *known == name).map(|(no, _)| *no).next_back();
        found.unwrap_or(RunNo(999))
    }

    fn hear(&mut self, name: &str, message: impl Into<Message>) {
        let session = self.sessions[name];
        self.stepped.handle(Input::Received { session, message: message.into() });
    }

    fn client(&mut self, line: &ScenarioLine<'_>) -> (String, u64) {
        self.next_request += 1;
        (line.text("by", "c").to_owned(), self.next_request)
    }

    fn start(&mut self, line: &ScenarioLine<'_>) {
        let (by, call_number) = self.client(line);
        let bytes = line.number("bytes", 0usize);
        let input = match bytes {
            0 => line.text("input", "x").as_bytes().to_vec(),
            _ => vec![7; bytes],
        };
        let run = |name: &&str| StartRun {
            id: run_id(name),
            name: line.fields.get("name").map(|name| (*name).to_owned()),
            workflow: line.text("workflow", "order").to_owned(),
            version: 1,
            queue: line.text("queue", "q").to_owned(),
            priority: line.number("priority", 5),
            delay_ms: line.span("delay").as_millis() as u64,
            input: Payload(input.clone().into()),
            tags: tags(line),
            unique: unique(line),
        };
        let names = line.words[1..].iter().filter(|word| is_run(word));
        let runs = names.map(run).collect();
        let caller = caller();
        let message: Message = match line.fields.get("batch") {
            Some(name) => call_as(
                call_number,
                caller,
                StartBatch {
                    name: (*name).to_owned(),
                    runs,
                    follow_up: line.fields.get("then").map(|workflow| {
                        Box::new(StartRun {
                            workflow: (*workflow).to_owned(),
                            queue: line.text("queue", "q").to_owned(),
                            input: Payload::of(&1).unwrap(),
                            ..StartRun::default()
                        })
                    }),
                    seal: line.has("seal"),
                },
            ),
            None if line.has("atomic") => call_as(call_number, caller, AtomicStart { runs }),
            None => call_as(call_number, caller, Start { runs }),
        };
        self.hear(&by, message);
    }

    fn set_queue(&mut self, line: &ScenarioLine<'_>) {
        let (by, call_number) = self.client(line);
        let has = |field: &str| line.fields.contains_key(field).then_some(());
        let rate = line.fields.get("rate").map(|text| {
            let (count, per) = text.split_once('/').unwrap();
            RateLimit {
                count: count.parse().unwrap(),
                per_ms: span(per).as_millis() as u64,
                burst: line.number("burst", 1),
            }
        });
        let change = QueueChange {
            paused: has("paused").map(|()| line.text("paused", "") == "yes"),
            concurrency: has("concurrency").map(|()| line.number("concurrency", 0)),
            rate,
            oldest_every: has("oldest").map(|()| line.number("oldest", 0)),
            create: line.has("create"),
        };
        let queue = line.word(1).to_owned();
        let caller = Caller { request_id: RequestId(line.number("request", 0)), ..caller() };
        self.hear(&by, call_as(call_number, caller, SetQueue { queue, change }));
    }

    fn ask(&mut self, line: &ScenarioLine<'_>) {
        let (by, call_number) = self.client(line);
        let (id, caller) = (run_id(line.word(1)), caller());
        let message: Message = match line.word(0) {
            "cancel" => call_as(call_number, caller, Cancel { id, reason: "no longer".to_owned() }),
            "resume" => call_as(call_number, caller, Resume { id }),
            "status" => call_as(call_number, caller, AskStatus { id }),
            _ => call_as(call_number, caller, AskOutcome { id, wait: line.has("wait") }),
        };
        self.hear(&by, message);
    }

    fn operate(&mut self, line: &ScenarioLine<'_>) {
        let (by, call_number) = self.client(line);
        let id = run_id(line.word(1));
        let caller = Caller {
            request_id: RequestId(line.number("request", u128::from(1_000 + call_number))),
            ..caller()
        };
        let message: Message = match line.word(0) {
            "redrive" => call_as(call_number, caller, Redrive { id }),
            "edit" => {
                let mut input = match line.has("raw") {
                    true => Vec::new(),
                    false => vec![1],
                };
                match line.number("bytes", 0usize) {
                    0 => input.extend(line.text("input", "").bytes()),
                    bytes => input.resize(bytes, 7),
                }
                call_as(call_number, caller, EditInput { id, input: Payload(input.into()) })
            }
            _ => call_as(call_number, caller, Discard { id, reason: "of no use".to_owned() }),
        };
        self.hear(&by, message);
    }

    fn report(&mut self, line: &ScenarioLine<'_>) {
        let run = self.run_no(line.word(1));
        let known = self.tokens.get(&run).copied().unwrap_or((Token::default(), SessionId(0)));
        let token = line.fields.get("token").map_or(known.0, |text| self.token(text));
        let session = line.fields.get("by").map_or(known.1, |name| self.sessions[*name]);
        let number =
            CommandIndex(line.words.get(2).and_then(|number| number.parse().ok()).unwrap_or(0));
        let key = line.fields.get("key");
        let location = SourceLocation {
            name: key.map_or(format!("s{number}"), |key| (*key).to_owned()),
            at: "order.rs:1".to_owned(),
            version: 1,
        };
        let memo = key.map(|key| MemoKey::of(Namespace::default(), key));
        let attempt = line.number("attempt", 1);
        let output = Payload(vec![7; line.number("bytes", 1)].into());
        let kind = match (line.has("terminal"), line.has("cancelled")) {
            (true, _) => FailureKind::Terminal,
            (_, true) => FailureKind::Cancelled,
            _ => FailureKind::Retryable,
        };
        let failure = Failure::new(kind, "io", "no answer");
        let failure = failure.class("c".repeat(line.number("class_bytes", 2)));
        let failure = match line.fields.contains_key("after") {
            true => Failure::retry_after(line.span("after"), "slow down"),
            false => failure,
        };
        let retry =
            Retry::fixed(Duration::from_secs(2)).jitter(0).retries(line.number("retries", 5));
        let message: Message = match line.word(0) {
            "memo" => MemoRequested { run, token, number, location, memo: memo.unwrap() }.into(),
            "release" => MemoReleased { run, token, number }.into(),
            "step" => {
                StepCompletedReport { run, token, number, location, attempt, output, memo }.into()
            }
            "fail" => {
                AttemptFailedReport { run, token, number, location, attempt, failure, retry }.into()
            }
            "timer" => {
                let delay_ms = line.span("delay").as_millis() as u64;
                TimerRequested { run, token, number, location, delay_ms }.into()
            }
            "suspend" => {
                let steps = line.text("memos", "");
                let steps = steps.split(',').filter(|step| !step.is_empty());
                let memos: Vec<CommandIndex> =
                    steps.map(|at| CommandIndex(at.parse().unwrap())).collect();
                let wakes_at = match !memos.is_empty() && !line.fields.contains_key("wakes") {
                    true => Time::NEVER,
                    false => START.after(line.span("wakes")),
                };
                TurnSuspended { run, token, seen: line.number("seen", 0), wakes_at, memos }.into()
            }
            "complete" => TurnCompleted { run, token, output }.into(),
            "failed" => TurnFailed {
                run,
                token,
                failure,
                whole: line.has("whole"),
                end: line.has("end").then(|| FunctionEnd {
                    failed_at: line.fields.get("at").map(|at| at.parse().unwrap()),
                    went_on: line
                        .fields
                        .get("went_on")
                        .map(|step| CommandIndex(step.parse().unwrap())),
                }),
            }
            .into(),
            "mismatch" => {
                let (journal_holds, code_asked) = ("step `s0`".to_owned(), "timer 1s".to_owned());
                TurnMismatched { run, token, index: 1, journal_holds, code_asked }.into()
            }
            _ => Requeue { run, token }.into(),
        };
        self.stepped.handle(Input::Received { session, message });
    }

    /// Goes on until nothing is left to do, and tells what was written and what left.
    fn settle(&mut self) {
        loop {
            self.flush();
            if !self.stepped.reads.is_empty() {
                self.stepped.read(0);
            } else if !self.stepped.answers.is_empty() {
                self.stepped.answer(0);
            } else if self.stepped.is_due() {
                self.stepped.handle(Input::Ticked);
            } else {
                break;
            }
        }
        self.commit();
    }

    fn commit(&mut self) {
        for action in self.stepped.commit() {
            let text = self.action_text(&action);
            let _ = writeln!(self.told, "{text}");
            match action {
                Action::DropGeneration { generation } => {
                    block_on(self.stepped.store.drop_generation(generation)).unwrap();
                }
                Action::Close { session, .. } => {
                    self.stepped.handle(Input::SessionClosed { session, goodbye: false });
                }
                _ => {}
            }
        }
    }

    fn flush(&mut self) {
        let (batches, shown) = self.stepped.flush();
        for action in &shown {
            self.learn(action);
        }
        batches.iter().flatten().for_each(|op| self.name_run(op));
        for op in batches.iter().flatten() {
            let text = self.write_text(op);
            let _ = writeln!(self.told, "{text}");
        }
    }

    fn learn(&mut self, action: &Action) {
        if let Action::Dispatch { session, run, token, .. }
        | Action::ContinueLease { session, run, token, .. } = action
        {
            self.tokens.insert(*run, (*token, *session));
        }
    }

    fn name_run(&mut self, op: &Op) {
        if let TableChange::Index(key, Some(record)) = TableChange::read(op).unwrap() {
            self.runs.insert(record.run, run_name(key.id));
        }
    }

    // Words for what is written.

    fn run_text(&self, no: RunNo) -> String {
        self.runs.get(&no).cloned().unwrap_or_else(|| format!("run #{no}"))
    }

    fn who(&self, process: ProcessInstance) -> String {
        let found = self.processes.iter().find(|(_, known)| **known == process);
        found.map_or_else(|| process.to_string(), |(name, _)| name.clone())
    }

    fn session_text(&self, session: SessionId) -> String {
        self.names.get(&session).cloned().unwrap_or_else(|| format!("session {session}"))
    }

    fn write_text(&mut self, op: &Op) -> String {
        let table = Table::from_key(op.key()).unwrap().name();
        let (key_text, value) = match TableChange::read(op).unwrap() {
            TableChange::Tally(TallyKey {}, record) => {
                (String::new(), record.as_ref().map(tally_text))
            }
            TableChange::Mark(MarkKey {}, record) => {
                (String::new(), record.as_ref().map(mark_text))
            }
            TableChange::Index(key, record) => {
                (format!(" {}", run_name(key.id)), record.map(|_| String::new()))
            }
            TableChange::Queue(QueueKey { queue }, record) => {
                let text = record.map(|QueueRecord { name, settings }| {
                    self.queues.insert(queue, name.clone());
                    format!(" {name}{}", settings_text(&settings))
                });
                (format!(" {queue}"), text)
            }
            TableChange::Pool(PoolKey { queue }, record) => {
                (format!(" {}", self.queue_text(queue)), record.as_ref().map(pool_text))
            }
            TableChange::Stopped(StoppedKey { run }, record) => {
                let text = record.map(|record| {
                    let first = short(record.reason.lines().next().unwrap_or_default());
                    format!(" {} builds={}: {first}", record.state, record.builds.join(","))
                });
                (format!(" {}", self.run_text(run)), text)
            }
            TableChange::Dead(DeadKey { died_at, run }, record) => {
                let text = record.map(|DeadRecord { class, .. }| match class.len() {
                    0..=64 => format!(" class={class}"),
                    length => format!(" class of {length} bytes"),
                });
                (format!(" {} {}", at(died_at), self.run_text(run)), text)
            }
            TableChange::Queued(QueuedKey { queue, priority, sequence }, record) => {
                let text = record.map(|record| {
                    let avoid = match record.avoid.is_empty() {
                        true => String::new(),
                        false => format!(" avoid={}", record.avoid.join(",")),
                    };
                    let run = self.run_text(record.run);
                    format!(" {run}{}{avoid}", deaths_text(record.deaths))
                });
                (format!(" {}/{priority}/{sequence}", self.queue_text(queue)), text)
            }
            TableChange::Lease(LeaseKey { slot }, record) => {
                let text = record.map(|record| {
                    let (run, worker) = (self.run_text(record.run), self.who(record.process));
                    format!(
                        " {run} worker={worker} token={} entries={}{}",
                        record.token,
                        record.entries,
                        deaths_text(record.deaths)
                    )
                });
                (format!(" {slot}"), text)
            }
            TableChange::Timer(TimerKey { due, run }, record) => {
                let text = record.map(|timer| match (timer.delayed, timer.memo) {
                    (true, _) => " delayed".to_owned(),
                    (_, Some(memo)) => {
                        let wakes_at = memo.wakes_at.map(|due| format!(" wakes={}", at(due)));
                        format!(" keys={}{}", memo.keys.len(), wakes_at.unwrap_or_default())
                    }
                    _ => String::new(),
                });
                (format!(" {} {}", at(due), self.run_text(run)), text)
            }
            TableChange::Journal(JournalKey { run, entry, part }, row) => {
                let text = row.map(|JournalRow(row)| match row.first() {
                    Some(0) if part == 0 => {
                        let stored = &row[1..row.len() - CHAIN_BYTES];
                        format!(" {}", entry_text(&Entry::decode(stored).unwrap()))
                    }
                    _ => format!(" {} bytes", row.len()),
                });
                let part = if part == 0 { String::new() } else { format!(" part {part}") };
                (format!(" {}[{entry}]{part}", self.run_text(run)), text)
            }
            TableChange::Generation(GenerationKey { generation }, record) => {
                let text = record.map(|record| format!(" from run #{}", record.first));
                (format!(" {generation}"), text)
            }
            TableChange::Moved(MovedKey { run }, record) => {
                let text = record.map(|record| format!(" to {}", record.generation));
                (format!(" {}", self.run_text(run)), text)
            }
            TableChange::Audit(AuditKey { at: done_at, .. }, record) => {
                let text = record.map(|act| {
                    let run = act.run.map_or(String::new(), run_name);
                    format!(" {} {run} by={}: {}", act.kind, act.principal, act.detail)
                });
                (format!(" {}", at(done_at)), text)
            }
            TableChange::Schedule(ScheduleKey { schedule }, record) => {
                let text = record.map(|record| format!(" {} bytes", record.to_bytes().len()));
                (format!(" {schedule}"), text)
            }
            TableChange::ScheduleState(ScheduleStateKey { schedule }, record) => {
                let text = record.map(|record| format!(" {} bytes", record.to_bytes().len()));
                (format!(" {schedule}"), text)
            }
            TableChange::Unique(_, record) => {
                let text = record.map(|record| match record.until {
                    Time(0) => format!(" {}", run_name(record.id)),
                    until => format!(" {} until {}", run_name(record.id), at(until)),
                });
                (String::new(), text)
            }
            TableChange::Memo(_, record) => {
                let text = record.map(|MemoRecord { run, entry, until }| {
                    format!(" {}[{entry}] until {}", self.run_text(run), at(until))
                });
                (String::new(), text)
            }
            TableChange::Batch(OpenBatchKey { slot }, record) => {
                (format!(" {slot}"), record.as_ref().map(batch_text))
            }
            TableChange::EndedBatch(_, record) => (String::new(), record.as_ref().map(batch_text)),
            TableChange::FollowUp(FollowUpKey { slot }, record) => {
                (format!(" {slot}"), record.map(|record| format!(" {}", record.run.workflow)))
            }
            TableChange::Expiry(ExpiryKey::Mark, record) => {
                (" mark".to_owned(), record.map(|_| String::new()))
            }
            TableChange::Expiry(ExpiryKey::Due(row), record) => {
                (format!(" {} {:?}", at(row.at), row.what), record.map(|_| String::new()))
            }
            TableChange::AppliedRequest(AppliedRequestKey { slot }, record) => (
                format!(" {slot}"),
                record.map(|record| format!(" request={}", record.request_id.0)),
            ),
        };
        match value {
            None => format!("delete {table}{key_text}"),
            Some(value) => format!("put {table}{key_text}{value}"),
        }
    }

    fn queue_text(&self, queue: u32) -> String {
        self.queues.get(&queue).cloned().unwrap_or_default()
    }

    // Words for what leaves.

    fn action_text(&self, action: &Action) -> String {
        match action {
            Action::Send { session, message } => {
                format!("{} <- {}", self.session_text(*session), self.message_text(message))
            }
            Action::Dispatch { session, run, token, count, .. } => {
                format!(
                    "{} <- dispatch {} token={token} entries={count}",
                    self.session_text(*session),
                    self.run_text(*run)
                )
            }
            Action::ContinueLease { session, run, old, token, from, count, .. } => {
                let (session, run) = (self.session_text(*session), self.run_text(*run));
                format!(
                    "{session} <- lease continued {run} token={old} now {token} entries={from}..{count}"
                )
            }
            Action::Close { session, reason } => {
                let reason: String = reason.chars().take(100).collect();
                format!("close {}: {reason}", self.session_text(*session))
            }
            Action::DropGeneration { generation } => format!("drop generation {generation}"),
            Action::Note(note) => format!("note {}", self.note_text(note)),
        }
    }

    fn note_text(&self, note: &Note) -> String {
        match note {
            Note::ClockJumped { by_ms } => format!("clock jumped by {by_ms} ms"),
            Note::ClockNotBelieved { by_ms } => format!("clock not believed, {by_ms} ms"),
            Note::SessionLost { process, runs } => {
                format!("{} lost with {runs} runs", self.who(*process))
            }
            Note::Parked { id, .. } => format!("{} parked", run_name(*id)),
            Note::Paused { id, .. } => format!("{} paused", run_name(*id)),
            Note::Died { id, reason } => format!("{} died: {reason}", run_name(*id)),
            Note::LongJournal { id, entries } => {
                format!("{} has a long journal: {entries} entries", run_name(*id))
            }
            Note::QueueSet { queue, what, by } => format!("queue {queue} set by {by}: {what}"),
            Note::UnservedQueue { queue, reason, for_ms } => {
                format!("queue {queue}: {reason}, for {for_ms} ms")
            }
            Note::UnservedQueueCleared { queue, reason } => {
                format!("queue {queue}: no longer that {reason}")
            }
            Note::NotCleaned { generation, what } => {
                format!("generation {generation} not cleaned: {what}")
            }
            Note::OccurrencesMissed { schedule, missed, .. } => {
                format!("{missed} occurrences of `{schedule}` missed")
            }
            Note::ScheduleUnreadable { schedule, what } => {
                format!("`{schedule}` unreadable: {what}")
            }
            Note::LettersForgotten { count } => format!("{count} dead letters forgotten"),
            Note::ScheduleSet { schedule, what, by } => {
                format!("schedule {schedule} {what} by {by}")
            }
            Note::Damaged { run, what } => format!("{} damaged: {what}", self.run_text(*run)),
        }
    }

    fn message_text(&self, message: &Message) -> String {
        match message {
            Message::Welcome(welcome) => {
                format!("welcome epoch={} now={}", welcome.epoch, at(welcome.now))
            }
            Message::Appended(told) => {
                let entry = Entry::decode(&told.entry).unwrap();
                format!(
                    "appended {}[{}] {}",
                    self.run_text(told.run),
                    told.index,
                    entry_text(&entry)
                )
            }
            Message::TurnEnded(ended) => {
                format!("turn ended {} token={}", self.run_text(ended.run), ended.token)
            }
            Message::Revoked(revoked) => {
                format!(
                    "revoked {} token={}: {}",
                    self.run_text(revoked.run),
                    revoked.token,
                    refusal_text(&revoked.reason)
                )
            }
            Message::AttemptMemo(granted) => {
                let run = self.run_text(granted.run);
                format!("attempt memo {run} step {}", granted.number)
            }
            Message::MemoReleased(returned) => {
                let run = self.run_text(returned.run);
                format!("memo released {run} step {}", returned.number)
            }
            Message::ReportRefused(refused) => {
                let run = self.run_text(refused.run);
                format!(
                    "report refused {run} step {}: {}",
                    refused.number,
                    refusal_text(&refused.reason)
                )
            }
            Message::Reply(Reply { answer: Answered::Known(Answer::StartReply(reply)), .. }) => {
                format!("start reply{}", answers_text(&reply.runs))
            }
            Message::Reply(Reply { answer: Answered::Known(Answer::BatchReply(reply)), .. }) => {
                let batch = &reply.batch;
                let sealed = if batch.sealed { " sealed" } else { "" };
                let ended = batch.ended_at.map_or("", |_| " ended");
                let (name, runs) = (&batch.name, answers_text(&reply.runs));
                let (over, total) = (batch.counts.ended(), batch.counts.total);
                format!("batch {name}{sealed}{ended}, {over} of {total} ended{runs}")
            }
            Message::Reply(Reply { answer: Answered::Known(Answer::OutcomeReply(reply)), .. }) => format!(
                "outcome {}",
                match &reply.outcome {
                    Outcome::OutcomeCompleted(_) => "completed".to_owned(),
                    Outcome::OutcomeDead(dead) => format!("dead: {}", dead.failure),
                    Outcome::OutcomeCancelled(_) => "cancelled".to_owned(),
                    Outcome::OutcomePending(pending) => format!("pending: {}", pending.state),
                }
            ),
            Message::Reply(Reply { answer: Answered::Known(Answer::StatusReply(reply)), .. }) => {
                let run = &reply.run;
                let wakes =
                    run.wakes_at.map_or(String::new(), |time| format!(" wakes={}", at(time)));
                let holder = run
                    .process
                    .map_or(String::new(), |process| format!(" worker={}", self.who(process)));
                format!(
                    "status {} {} entries={}{wakes}{holder}",
                    run_name(run.id),
                    run.state,
                    run.entries
                )
            }
            Message::Reply(Reply { answer: Answered::Known(Answer::DoneReply(_)), .. }) => "done".to_owned(),
            Message::Reply(Reply { answer: Answered::Known(Answer::QueuesReply(reply)), .. }) => {
                let queues: Vec<String> = reply.queues.iter().map(queue_text).collect();
                format!("queues: {}", queues.join("; "))
            }
            Message::Reply(Reply { answer: Answered::Known(Answer::RefusedReply(refused)), .. }) => {
                format!("refused: {}", refusal_text(&refused.reason))
            }
            Message::Registered(_) => "registered".to_owned(),
            Message::Reply(Reply { answer: Answered::Known(answer), .. }) => {
                answer.kind_name().to_owned()
            }
            other => other.kind_name().to_owned(),
        }
    }
}

fn queues(line: &ScenarioLine<'_>) -> Vec<QueueSlots> {
    let parts = line.text("queues", "q:1").split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (queue, slots) = part.split_once(':').unwrap();
            QueueSlots { queue: queue.to_owned(), slots: slots.parse().unwrap() }
        })
        .collect()
}

fn answers_text(answers: &[StartAnswer]) -> String {
    answers.iter().fold(String::new(), |text, answer| {
        let how = match (&answer.refused, answer.started) {
            (Some(reason), _) => format!("refused: {}", refusal_text(reason)),
            (None, true) => "started".to_owned(),
            (None, false) => "there already".to_owned(),
        };
        format!("{text} {} {how}", run_name(answer.id))
    })
}

fn refusal_text(refusal: &Refusal) -> String {
    short(&refusal.to_string())
}

/// Ids are long and say little.
fn short(text: &str) -> String {
    let text: String = text.chars().take(160).collect();
    let shorter = text
        .split(' ')
        .map(|word| word.parse::<RunId>().map_or_else(|_| word.to_owned(), run_name));
    shorter.collect::<Vec<_>>().join(" ")
}

fn entry_text(entry: &Entry) -> String {
    let detail = match entry {
        Entry::Started(e) => {
            let delayed =
                e.not_before.map_or(String::new(), |time| format!(" not before {}", at(time)));
            format!(" workflow={} queue={} priority={}{delayed}", e.workflow, e.queue, e.priority)
        }
        Entry::StepCompleted(e) => format!(" {} attempt={}", e.number, e.attempt),
        Entry::StepFailed(e) => format!(" {} attempt={}: {}", e.number, e.attempt, e.failure),
        Entry::AttemptFailed(e) => {
            let number = if e.number == CommandIndex::FUNCTION {
                "whole".to_owned()
            } else {
                e.number.to_string()
            };
            let counted = if e.counted { "" } else { " uncounted" };
            format!(
                " {number} attempt={}{counted} retry={}: {}",
                e.attempt,
                at(e.retry_at),
                e.failure
            )
        }
        Entry::TimerArmed(e) => format!(" {} due={}", e.number, at(e.due)),
        Entry::TimerFired(e) => format!(" {}", e.number),
        Entry::CancelRequested(e) => format!(" by={}: {}", e.principal, e.reason),
        Entry::Completed(_) | Entry::Cancelled(_) => String::new(),
        Entry::Died(e) => format!(": {}", e.failure),
        Entry::Redriven(e) => {
            let rejoins = if e.rejoins { " rejoins" } else { "" };
            format!(" by={} from={}{rejoins}", e.principal, e.from)
        }
        Entry::InputEdited(e) => format!(" by={} {} bytes", e.principal, e.input.len()),
        Entry::Discarded(e) => format!(" by={}: {}", e.principal, e.reason),
    };
    format!("{} at={}{detail}", entry.kind_name(), at(entry.at()))
}
