//! Runs seeds: `seeds FROM COUNT`; each of them twice, to compare: `seeds FROM COUNT twice`; one
//! with its trace: `seeds SEED trace`. `SIM_HEAVY=1` runs timer-heavy plans instead. With `fjall`
//! as the last word, on the production store in a temporary directory.

use std::collections::BTreeMap;

use stepwell_sim::{Plan, run, run_traced};

fn plan_of(seed: u64) -> Plan {
    if std::env::var_os("SIM_HEAVY").is_some() {
        Plan::timer_heavy(seed)
    } else {
        Plan::from_seed(seed)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let from: u64 = arguments.first().map_or(0, |text| text.parse().expect("a seed"));
    if std::env::var_os("SIM_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("SIM_LOG"))
            .with_writer(std::io::stderr)
            .init();
    }
    let on_fjall = arguments.last().is_some_and(|word| word == "fjall");
    let plan_of = |seed| match on_fjall {
        true => plan_of(seed).on_fjall(),
        false => plan_of(seed),
    };
    if arguments.get(1).is_some_and(|word| word == "trace") {
        let plan = plan_of(from);
        println!("{}", serde_json::to_string_pretty(&plan).expect("a plan is data"));
        let (report, lines) = run_traced(plan);
        lines.iter().for_each(|line| println!("{line}"));
        println!("{report}");
        return;
    }
    let count: u64 = arguments.get(1).map_or(1, |text| text.parse().expect("a count"));
    let (mut failed, mut faults, mut seen, mut runs) =
        (Vec::new(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (mut simulated_ms, mut skipped_ms, mut healed_max_ms) = (0, 0, 0);
    let twice = arguments.get(2).is_some_and(|word| word == "twice");
    #[expect(clippy::disallowed_methods, reason = "how long it takes, for who watches")]
    let begun = std::time::Instant::now();
    for seed in from..from + count {
        let done = seed - from;
        if done > 0 && done.is_multiple_of(1_000) {
            let failed = failed.len();
            let seconds = begun.elapsed().as_secs();
            eprintln!("{done} of {count} seeds, {failed} failed, {seconds} s");
        }
        let report = run(plan_of(seed));
        if twice && run(plan_of(seed)) != report {
            println!("seed {seed} is not deterministic");
            failed.push(seed);
        }
        simulated_ms += report.simulated_ms;
        skipped_ms += report.skipped_ms;
        healed_max_ms = healed_max_ms.max(report.healed_in_ms);
        if !report.is_sound() {
            println!("{report}");
            failed.push(seed);
        }
        report.faults.iter().for_each(|(kind, n)| *faults.entry(*kind).or_insert(0) += n);
        report.seen.iter().for_each(|(what, n)| *seen.entry(what.clone()).or_insert(0) += n);
        report.runs.iter().for_each(|(what, n)| *runs.entry(what.clone()).or_insert(0) += n);
    }
    println!(
        "{count} seeds, {} failed {failed:?}, {} simulated s, {} days skipped",
        failed.len(),
        simulated_ms / 1_000,
        skipped_ms / 86_400_000
    );
    println!("all had ended at most {healed_max_ms} ms after the faults");
    println!("runs {runs:?}\nfaults {faults:?}\nseen {seen:?}");
}
