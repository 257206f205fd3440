//! Which commands make which requests: nothing that an engine can do is out of an operator's reach
//! by an oversight.

use std::collections::BTreeSet;

use clap::CommandFactory;
use stepwell::wire::request::Request;

use crate::Arguments;

/// Declares, for each request, the commands that make it. One that is left out does not compile.
macro_rules! commands {
    ($($request:ident => [$($command:literal),* $(,)?]),+ $(,)?) => {
        fn commands_of(request: &Request) -> &'static [&'static str] {
            match request { $(Request::$request(_) => &[$($command),*]),+ }
        }

        const COMMANDS: &[(&str, &[&str])] = &[$((stringify!($request), &[$($command),*])),+];
    };
}

commands! {
    Start => ["run start"],
    AskOutcome => ["run wait"],
    AskStatus => ["run show"],
    AskList => ["run list"],
    AskJournal => ["run show", "dead show"],
    Cancel => ["run cancel", "batch cancel"],
    Resume => ["run resume"],
    // Programs list dead letters as runs; for operators they are letters.
    AskDead => [],
    AskStats => ["stats"],
    AskQueues => ["queue list", "queue show"],
    SetQueue => ["queue pause", "queue resume", "queue drain", "queue limit"],
    AskLetters => ["dead list"],
    EditInput => ["dead edit"],
    Redrive => ["dead redrive"],
    Discard => ["dead discard"],
    AskAudit => ["audit"],
    SetSchedule => ["schedule set"],
    AskSchedules => ["schedule list"],
    AskOccurrences => ["schedule show"],
    PauseSchedule => ["schedule pause"],
    ResumeSchedule => ["schedule resume"],
    RemoveSchedule => ["schedule remove"],
    Backfill => ["schedule backfill"],
    StartBatch => ["batch start"],
    AskBatch => ["batch show"],
    // All or none of several runs is what a program asks that knows them together.
    AtomicStart => [],
}

/// Commands that ask no engine that runs already, or are made of others.
const WITHOUT: &[&str] = &["serve", "store", "demo", "sim", "bench", "help"];

/// The names of all commands that have none below them.
fn leaves(at: &str, command: &clap::Command, found: &mut BTreeSet<String>) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let gap = if at.is_empty() { "" } else { " " };
        let name = format!("{at}{gap}{}", below.get_name());
        match below.has_subcommands() {
            true => leaves(&name, below, found),
            false => _ = found.insert(name),
        }
    }
}

#[test]
fn every_request_has_its_command_and_every_command_its_request() {
    let mut there = BTreeSet::new();
    leaves("", &Arguments::command(), &mut there);
    there.retain(|name| !WITHOUT.contains(&name.split(' ').next().unwrap_or_default()));
    let named = COMMANDS.iter().flat_map(|(_, commands)| *commands);
    let named: BTreeSet<String> = named.map(|name| (*name).to_owned()).collect();
    assert_eq!(named, there);
    let requests: BTreeSet<&str> = COMMANDS.iter().map(|(request, _)| *request).collect();
    let known: BTreeSet<&str> = Request::KINDS.iter().map(|(_, name)| *name).collect();
    assert_eq!(requests, known);
    let ask = stepwell::wire::request::AskStats {};
    assert_eq!(commands_of(&ask.into()), ["stats"]);
}
