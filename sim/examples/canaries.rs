//! Looks for the bugs that were planted on purpose: `canaries [--json] [--seeds N] [--cpu SECONDS]
//! [--shrink SECONDS] [--bank DIR] [--keep DIR] [--share N/M] [PATTERN]`.
//!
//! With `--bank`, the plan of each in that directory is run before any seed; with `--keep` (and
//! `--shrink`) the shrunk plans are written there. With `--share 1/2` every second canary, with
//! `--share 2/2` the others.
//!
//! Exit 0 if each was caught, 1 if one was not, 2 if this build holds none.

use std::process::ExitCode;
use std::time::Duration;

use stepwell_sim::canary::{Budget, Hunt, hunt_all};

fn main() -> ExitCode {
    let (mut json, mut pattern, mut budget) = (false, String::new(), Budget::default());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut word = || arguments.next().expect("a value");
        let mut number = || -> u64 { word().parse().expect("a number") };
        match argument.as_str() {
            "--json" => json = true,
            "--seeds" => budget.seeds = number(),
            "--bank" => budget.bank = Some(word().into()),
            "--keep" => budget.keep = Some(word().into()),
            "--share" => budget.share = share(&word()),
            "--shrink" => budget.shrink = Duration::from_secs(number()),
            "--cpu" => budget.cpu = Duration::from_secs(number()),
            _ => pattern = argument,
        }
    }
    if !json {
        println!("{:<62}  {:<44}  {:>6}  {:>7}  breaks", "canary", "caught by", "seeds", "CPU s");
    }
    let hunts = hunt_all(&pattern, &budget, |hunt| {
        if !json {
            tell(hunt);
        }
    });
    let hunts = match hunts {
        Ok(hunts) => hunts,
        Err(none) => {
            eprintln!("{none}");
            return ExitCode::from(2);
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&hunts).expect("a hunt is data"));
    } else {
        sum_up(&hunts);
    }
    if hunts.iter().all(|hunt| hunt.caught) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `2/3` as the second, and each third from there.
fn share(text: &str) -> (usize, usize) {
    let (nth, of) = text.split_once('/').expect("N/M");
    let nth: usize = nth.parse().expect("a number");
    (nth - 1, of.parse().expect("a number"))
}

fn tell(hunt: &Hunt) {
    let caught_by = match (&hunt.checker, hunt.caught) {
        (Some(checker), true) => checker.as_str(),
        (Some(_), false) => "SHOWN WITHOUT IT TOO",
        (None, _) => "NOT CAUGHT",
    };
    let seeds = match hunt.banked {
        true => "bank".to_owned(),
        false => hunt.seeds.to_string(),
    };
    println!(
        "{:<62}  {caught_by:<44}  {seeds:>6}  {:>7.2}  {}",
        hunt.name, hunt.cpu_s, hunt.breaks
    );
    if let Some(faults) = hunt.faults_after_shrink {
        println!("    shrunk to {faults} faults in {:.1} s", hunt.shrink_s);
    }
    for violation in &hunt.without {
        println!("    without it: {}: {}", violation.checker, violation.text);
    }
}

fn sum_up(hunts: &[Hunt]) {
    let mut cpu_s: Vec<f64> = hunts.iter().map(|hunt| hunt.cpu_s).collect();
    cpu_s.sort_by(f64::total_cmp);
    let missed = hunts.iter().filter(|hunt| !hunt.caught).count();
    let shrunk = hunts.iter().filter_map(|hunt| hunt.faults_after_shrink);
    let few = shrunk.clone().filter(|faults| *faults <= 5).count();
    if shrunk.clone().count() > 0 {
        println!("{few} of {} shrunk to at most 5 faults", shrunk.count());
    }
    println!(
        "{} canaries, {missed} not caught; CPU: median {:.2} s, longest {:.2} s, all {:.0} s",
        hunts.len(),
        cpu_s.get(cpu_s.len() / 2).copied().unwrap_or_default(),
        cpu_s.last().copied().unwrap_or_default(),
        cpu_s.iter().sum::<f64>()
    );
}
