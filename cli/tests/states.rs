//! Every state of a run, as commands list and count it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stepwell;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::stepwell::model::run::RunState;
use ::stepwell::{Ctx, Failure, Worker, WorkerHandle, Workflow, hours};
use stepwell::{Answer, Running, stepwell, until};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// The server pauses a run whose journal has so many entries.
const ENTRIES_MAX: &str = "20";

const WALK: Workflow<String, u32> = Workflow::new("walk").queue("walk");

/// A server, this test as its worker, and where the runs must be by now.
struct Scene {
    server: Running,
    runtime: Runtime,
    /// Lets a step end.
    gate: Arc<Semaphore>,
    expected: BTreeMap<String, RunState>,
    _dir: TempDir,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            server: Running::server_with(dir.path(), &["--journal-max", ENTRIES_MAX]),
            runtime: Runtime::new().unwrap(),
            gate: Arc::new(Semaphore::new(0)),
            expected: BTreeMap::new(),
            _dir: dir,
        }
    }

    fn ask(&self, args: &[&str]) -> Answer {
        let address = self.server.address();
        let more = ["--server", &address, "--principal", "ada@shop"];
        let answer = stepwell(&[args, &more].concat());
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
        answer
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        self.ask(&[args, &["--json"]].concat()).json()
    }

    fn start(&self, name: &str, how: &str, more: &[&str]) {
        let input = format!("\"{how}\"");
        let start = ["run", "start", "walk", "--queue", "walk", "--name", name];
        self.ask(&[&start[..], &["--input", &input], more].concat());
    }

    /// A worker of one build, which calls the first step so.
    fn worker(&self, step: &'static str) -> WorkerHandle {
        let gate = self.gate.clone();
        let worker = Worker::connect(self.server.address())
            .build(step)
            .register(WALK, move |ctx: Ctx, how: String| walk(ctx, how, step, gate.clone()))
            .queue("walk", 4)
            .grace(Duration::ZERO);
        self.runtime.block_on(async { worker.start().unwrap() })
    }

    /// The run comes to this state, and all listings and counts say what they must of it and of all
    /// others.
    fn comes_to(&mut self, name: &str, state: RunState) {
        until(&format!("{name} is {state}"), || {
            self.json(&["run", "show", name])["state"] == state.as_str()
        });
        self.expected.insert(name.to_owned(), state);
        let what = format!("when {name} was {state}");
        self.is_listed(&what);
        self.is_counted(&what);
    }

    fn is_listed(&self, what: &str) {
        for state in RunState::ALL {
            let listed = self.json(&["run", "list", "--state", state.as_str()]);
            let runs = listed["runs"].as_array().unwrap().iter();
            let mut names: Vec<&str> = runs.map(|run| run["name"].as_str().unwrap()).collect();
            names.sort_unstable();
            let expected = self.expected.iter().filter(|(_, at)| **at == state);
            let expected: Vec<&str> = expected.map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, expected, "{state}, {what}");
        }
        let all = self.json(&["run", "list"]);
        assert_eq!(all["runs"].as_array().unwrap().len(), self.expected.len());
    }

    fn is_counted(&self, what: &str) {
        let count = |state| self.expected.values().filter(|at| **at == state).count();
        let stats = self.json(&["stats"]);
        let counted = stats["runs"].as_object().unwrap();
        assert_eq!(counted.len(), RunState::ALL.len());
        for state in RunState::ALL {
            assert_eq!(counted[state.as_str()], count(state), "{state}, {what}");
        }
        let queue = self.json(&["queue", "show", "walk"]);
        let gauges = [RunState::Delayed, RunState::Queued, RunState::Running, RunState::Suspended];
        for state in gauges {
            assert_eq!(queue[state.as_str()], count(state), "{state}, {what}");
        }
    }
}

/// Goes where its input says.
async fn walk(
    ctx: Ctx,
    how: String,
    first: &'static str,
    gate: Arc<Semaphore>,
) -> Result<u32, Failure> {
    ctx.step(first, |_| async { Ok::<_, Failure>(()) }).await?;
    match how.as_str() {
        "sleep" => ctx.sleep(hours(6)).await?,
        "long" => {
            let entries_max = ENTRIES_MAX.parse().unwrap();
            for number in 0..entries_max {
                ctx.step(format!("step {number}"), |_| async { Ok::<_, Failure>(0u32) }).await?;
            }
        }
        "fail" => {
            ctx.step("fail", |_| async { Err::<u32, _>(Failure::terminal("never")) }).await?;
        }
        _ => {
            ctx.step("hold", |_| async {
                gate.acquire().await.unwrap().forget();
                Ok::<_, Failure>(())
            })
            .await?;
        }
    }
    Ok(1)
}

// A22: what cannot be seen breaks silently. Runs are taken through all ten states; after each
// change each listing has exactly the runs that it must, and the counts of the engine and of the
// queue are those of the listings.
#[test]
fn every_state_of_a_run_is_listed_and_counted() {
    let mut scene = Scene::set();
    scene.start("later", "hold", &["--delay", "1h"]);
    scene.comes_to("later", RunState::Delayed);
    scene.ask(&["run", "cancel", "later"]);
    scene.comes_to("later", RunState::Cancelled);

    // From the line to a worker, back, to one with other code, and on to its end.
    scene.start("moved", "hold", &[]);
    scene.comes_to("moved", RunState::Queued);
    let first = scene.worker("first");
    scene.comes_to("moved", RunState::Running);
    scene.runtime.block_on(first.drain());
    scene.comes_to("moved", RunState::Queued);
    let other = scene.worker("renamed");
    scene.comes_to("moved", RunState::Parked);
    scene.runtime.block_on(other.drain());
    scene.ask(&["run", "resume", "moved"]);
    scene.comes_to("moved", RunState::Queued);
    let worker = scene.worker("first");
    scene.comes_to("moved", RunState::Running);
    scene.gate.add_permits(1);
    scene.comes_to("moved", RunState::Completed);

    scene.start("asleep", "sleep", &[]);
    scene.comes_to("asleep", RunState::Suspended);
    scene.start("long", "long", &[]);
    scene.comes_to("long", RunState::Paused);
    scene.start("failing", "fail", &[]);
    scene.comes_to("failing", RunState::Dead);
    scene.ask(&["dead", "redrive", "failing", "--yes"]);
    scene.comes_to("failing", RunState::Dead);
    scene.ask(&["dead", "discard", "failing", "--yes"]);
    scene.comes_to("failing", RunState::Discarded);
    // What has done something is woken, to clean up.
    scene.runtime.block_on(worker.drain());
    scene.ask(&["run", "cancel", "asleep"]);
    scene.comes_to("asleep", RunState::Queued);
    let worker = scene.worker("first");
    scene.comes_to("asleep", RunState::Cancelled);
    scene.ask(&["run", "cancel", "long"]);
    scene.comes_to("long", RunState::Cancelled);
    scene.runtime.block_on(worker.drain());
}
