//! The determinism gate: the same seed twice, in one process and in two.

use std::process::Command;

use super::Ready;
use crate::plan::Plan;
use crate::report::Report;
use crate::trace::first_difference;

/// Tells a child process which seed to play, and where its trace goes.
const CHILD: &str = "SIM_GATE_CHILD";

/// Runs `plan` again, and tells how it differs.
pub(super) fn twice(suite: &Ready, plan: &Plan, first: &Report) -> Option<String> {
    let again = suite.simulate(plan.clone());
    if again.trace_hash == first.trace_hash {
        return None;
    }
    let (one, two) = (suite.simulate_traced(plan.clone()).1, suite.simulate_traced(plan.clone()).1);
    let told = first_difference(&one, &two).unwrap_or_else(|| {
        "the traces differed once, and not when they were kept: chance from outside the simulation decides".to_owned()
    });
    Some(format!("seed {}: {told}", plan.seed))
}

/// Runs `seed` here and in another process, and tells how they differ. Nothing, if this is neither
/// a test that can be called by its name nor a program that may be called again.
pub(super) fn other_process(suite: &Ready, seed: u64, calls_itself: bool) -> Option<String> {
    let arguments: Vec<String> = if calls_itself {
        std::env::args().skip(1).collect()
    } else {
        let flags = ["--exact", "--nocapture", "--include-ignored"];
        let test = test_name()?;
        std::iter::once(test).chain(flags.map(str::to_owned)).collect()
    };
    let file = std::env::temp_dir().join(format!(
        "stepwell-gate-{}-{}-{seed}",
        std::process::id(),
        suite.program.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    ));
    let output = Command::new(std::env::current_exe().ok()?)
        .args(arguments)
        .env(CHILD, format!("{seed} {} {}", file.display(), suite.program.name))
        .output();
    let lines = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    let lines: Vec<String> = match (output, lines) {
        (Ok(_), Ok(text)) => text.lines().map(str::to_owned).collect(),
        _ => return None, // it could not be called; that tells nothing of determinism
    };
    let here: Vec<String> = suite
        .simulate_traced(suite.plan(seed))
        .1
        .iter()
        .flat_map(|line| line.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    first_difference(&here, &lines).map(|told| format!("seed {seed}, in two processes: {told}"))
}

/// In the other process: plays what the parent asks for, and ends the process. It never begins
/// another.
pub(super) fn play_as_child(suite: &Ready) {
    let Ok(order) = std::env::var(CHILD) else {
        return;
    };
    let mut words = order.splitn(3, ' ');
    let (seed, file, name) = (words.next(), words.next(), words.next());
    if name == Some(suite.program.name.as_str())
        && let (Some(Ok(seed)), Some(file)) = (seed.map(str::parse), file)
    {
        let lines = suite.simulate_traced(suite.plan(seed)).1;
        let _ = std::fs::write(file, lines.join("\n"));
    }
    std::process::exit(0)
}

/// The name of the test that runs, if that can be known.
pub(super) fn test_name() -> Option<String> {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut names = Vec::new();
    let mut exact = false;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--exact" => exact = true,
            "--skip" | "--test-threads" | "--format" | "--color" => {
                arguments.next();
            }
            flag if flag.starts_with('-') => {}
            name => names.push(name.to_owned()),
        }
    }
    match names.as_slice() {
        [name] if exact => Some(name.clone()),
        _ => {
            let name = std::thread::current().name()?.to_owned();
            (name != "main").then_some(name)
        }
    }
}
