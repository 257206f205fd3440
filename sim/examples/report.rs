//! Writes the report of a plan, a page and its data: `report SEED [DIRECTORY]`, or `report
//! FILE.json [DIRECTORY]` to run the plan of an earlier report, or a plan alone, again.

use stepwell_sim::{Plan, Recording, run_recorded};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(what) = arguments.next() else {
        eprintln!("report SEED|FILE.json [DIRECTORY]");
        std::process::exit(2);
    };
    let directory = arguments.next().unwrap_or_else(|| "target/sim-reports".to_owned());
    let plan = match what.parse() {
        Ok(seed) => Plan::from_seed(seed),
        Err(_) => {
            let text = std::fs::read_to_string(&what)?;
            serde_json::from_str::<Recording>(&text)
                .map(|recording| recording.plan)
                .or_else(|_| serde_json::from_str(&text))?
        }
    };
    let recording = run_recorded(plan);
    let written = recording.write(directory)?;
    print!("{}", recording.report);
    println!("{}\n{}", written.html.display(), written.json.display());
    Ok(())
}
