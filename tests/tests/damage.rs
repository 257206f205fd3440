//! Directories that are not as they were left.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use stepwell::{Client, RunState, millis, secs};
use stepwell_tests::process_spec::{EngineSpec, ProcessSpec, WorkerSpec};
use stepwell_tests::verdict::Content;
use stepwell_tests::workflow::{DOOMED, Entry, LEDGER, LONG, Long, RETRIED, SLEEPER, TIDY};

use crate::host::{Host, until_stats};

/// Cases in all, shared by the files.
const CASES: usize = 72;
/// The write-ahead log is sparse: beyond its used part there is nothing to damage.
const HEAD_BYTES_MAX: u64 = 4 << 20;

/// How the engine was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Killed,
}

/// Runs of all sorts in a directory, and what is known of them.
pub(crate) async fn furnished(data: &Path, end: End) -> Content {
    let mut spec = EngineSpec::new(data);
    spec.session_timeout = secs(30);
    let (mut engine, server) = Host::engine(&spec).await;
    let client = Client::connect(&server).await.unwrap();
    let effects = data.with_extension("furnishing");
    let mut worker = Host::worker(&WorkerSpec { server, slots: 16, grace: secs(5), effects });
    for number in 0..6_u64 {
        let weight = "w".repeat(if number == 0 { 9_000 } else { 10 });
        let entry = Entry { number, weight };
        client.start(LEDGER, &entry).name(format!("ledger-{number}")).await.unwrap();
        client.start(SLEEPER, &number).name(format!("sleeper-{number}")).await.unwrap();
    }
    for number in 0..2 {
        client.start(DOOMED, &number).name(format!("doomed-{number}")).await.unwrap();
        client.start(LONG, &Long { work: millis(1) }).name(format!("long-{number}")).await.unwrap();
    }
    client.start(RETRIED, &1).name("retried").await.unwrap();
    let tidy = client.start(TIDY, &1).name("tidy").await.unwrap();
    worker.says("begun occupy").await;
    tidy.cancel("the shop closes").await.unwrap();
    until_stats(&client, "all have ended or sleep", |stats| {
        stats.runs_in(RunState::Completed) == 9
            && stats.runs_in(RunState::Suspended) == 6
            && stats.runs_in(RunState::Dead) == 2
            && stats.runs_in(RunState::Cancelled) == 1
    })
    .await;
    worker.close().await;
    // These are still to be done.
    for number in 10..14 {
        client.start(LEDGER, &Entry::of(number)).name(format!("ready-{number}")).await.unwrap();
    }
    let mut content = Content::of(&client).await.unwrap();
    assert_eq!(content.0.len(), 22);
    for known in &mut content.0 {
        let number = known.name.split_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
        known.returns = match known.name.split('-').next().unwrap() {
            "ledger" | "ready" => number.map(|number| (number * 2).into()),
            "long" => Some("both done".into()),
            "retried" => Some(2.into()),
            _ => None,
        };
    }
    match end {
        End::Closed => engine.close().await,
        End::Killed => {
            engine.kill();
            engine.ended().await;
        }
    }
    content
}

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// A bit is another.
    Flipped { at: u64, bit: u8 },
    /// A page is empty.
    Zeroed { at: u64 },
    /// It ends here.
    Cut { at: u64 },
    /// It is gone.
    Gone,
}

impl Damage {
    fn draw(draw: &mut Draw, bytes: u64) -> Self {
        let mut below = |limit: u64| draw.next().unwrap() % limit;
        let (at, bit) = (below(bytes), below(8) as u8);
        match below(8) {
            0..4 => Self::Flipped { at, bit },
            4 => Self::Zeroed { at: at & !4095 },
            _ => Self::Cut { at },
        }
    }

    fn inflict(self, path: &Path) {
        if let Self::Gone = self {
            return std::fs::remove_file(path).unwrap();
        }
        let mut file = File::options().read(true).write(true).open(path).unwrap();
        match self {
            Self::Flipped { at, bit } => {
                let mut byte = [0];
                file.seek(SeekFrom::Start(at)).unwrap();
                file.read_exact(&mut byte).unwrap();
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&[byte[0] ^ 1 << bit]).unwrap();
            }
            Self::Zeroed { at } => {
                let left = file.metadata().unwrap().len() - at;
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&vec![0; left.min(4096) as usize]).unwrap();
            }
            Self::Cut { at } => file.set_len(at).unwrap(),
            Self::Gone => {}
        }
    }
}

/// How many verdicts of each kind.
#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    stopped: usize,
    whole: usize,
}

/// Damages copies of a directory in many places, and has each judged by a process of its own.
async fn survey(end: End, seed: u64) -> Tally {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let content = furnished(&data, end).await;
    let known = directory.path().join("content.json");
    std::fs::write(&known, serde_json::to_vec(&content).unwrap()).unwrap();
    let judged = async |name: String, damage: Option<(PathBuf, Damage)>| {
        let copied = directory.path().join(&name);
        copy(&data, &copied);
        if let Some((file, damage)) = &damage {
            damage.inflict(&copied.join(file));
        }
        let spec = ProcessSpec::Judge { data: copied.clone(), content: known.clone() };
        let ending = Host::start(&spec).ended().await;
        let verdict = ending.stdout.lines().find_map(|line| line.strip_prefix("verdict: "));
        let what = format!("{damage:?} of a directory that was {end:?}: {ending:?}");
        let verdict = verdict.unwrap_or_else(|| panic!("no verdict on {what}")).to_owned();
        assert_eq!(ending.code, Some(0), "{what}");
        assert!(!ending.stderr.contains("panicked"), "{what}");
        assert!(!verdict.starts_with("WRONG"), "{what}");
        std::fs::remove_dir_all(&copied).unwrap();
        verdict
    };
    assert_eq!(judged("sound".to_owned(), None).await, "whole");

    let mut tally = Tally::default();
    for (number, (file, damage)) in plan(&data, seed).into_iter().enumerate() {
        let verdict = judged(number.to_string(), Some((file, damage))).await;
        match verdict.split(':').next() {
            Some("refused") => tally.refused += 1,
            Some("stopped") => tally.stopped += 1,
            _ => tally.whole += 1,
        }
    }
    tally
}

/// Each file is once removed; the rest of the cases goes to places in files by the square root of
/// their size.
fn plan(data: &Path, seed: u64) -> Vec<(PathBuf, Damage)> {
    let mut draw = Draw(seed);
    let files: Vec<(PathBuf, u64)> = files(data)
        .into_iter()
        .map(|path| (path.strip_prefix(data).unwrap().to_owned(), used_bytes(&path)))
        .filter(|(path, _)| !path.ends_with("LOCK") && !path.ends_with("stepwell.sock"))
        .collect();
    let mut plan: Vec<_> = files.iter().map(|(path, _)| (path.clone(), Damage::Gone)).collect();
    let weight = |bytes: u64| bytes.isqrt();
    let all: u64 = files.iter().map(|(_, bytes)| weight(*bytes)).sum();
    while plan.len() < CASES {
        let mut drawn = draw.next().unwrap() % all;
        for (path, bytes) in &files {
            if drawn < weight(*bytes) {
                plan.push((path.clone(), Damage::draw(&mut draw, *bytes)));
                break;
            }
            drawn -= weight(*bytes);
        }
    }
    plan
}

// What disks do: bits rot, pages are lost, files are cut short by a copy that failed. Each of these
// is refused with a reason, or stops the runs it hit with a reason, or hits nothing that mattered.
// A panic would be a crash loop, and a wrong answer would be a second charge. A bit in the log that
// makes its tail look unwritten is what the watermark finds.
#[tokio::test]
async fn a_damaged_directory_is_refused_or_its_runs_are_stopped_after_a_close() {
    let tally = survey(End::Closed, 1).await;
    assert!(tally.refused >= 20, "{tally:?}");
}

// A killed engine leaves its log as it was at that moment, sparse, and nothing in tables: other
// files matter.
#[tokio::test]
async fn a_damaged_directory_is_refused_or_its_runs_are_stopped_after_a_kill() {
    let tally = survey(End::Killed, 2).await;
    assert!(tally.refused >= 20, "{tally:?}");
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Without the zeros at its end.
pub(crate) fn used_bytes(path: &Path) -> u64 {
    let mut head = Vec::new();
    if let Ok(file) = File::open(path) {
        file.take(HEAD_BYTES_MAX).read_to_end(&mut head).unwrap();
    }
    head.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Copies a directory; a file that ends with zeros becomes sparse there. Sockets stay behind.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if path.is_file() {
            let mut head = vec![0; used_bytes(&path) as usize];
            File::open(&path).unwrap().read_exact(&mut head).unwrap();
            std::fs::write(&target, head).unwrap();
            let file = File::options().write(true).open(&target).unwrap();
            file.set_len(path.metadata().unwrap().len()).unwrap();
        }
    }
}

/// Draws numbers, the same for the same seed (splitmix64).
pub(crate) struct Draw(pub(crate) u64);

impl Iterator for Draw {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(z ^ (z >> 31))
    }
}
