//! The report as one page: a template with the data in it.

use serde::Serialize;

use crate::picture::Picture;
use crate::plan::Plan;
use crate::recording::Recording;

/// Style, text and program of the page. It asks nobody for anything.
const TEMPLATE: &str = include_str!("page.html");
/// Where the data goes.
const DATA: &str = "{{DATA}}";
/// Where the title goes.
const TITLE: &str = "{{TITLE}}";

#[derive(Serialize)]
struct Data<'a> {
    recording: &'a Recording,
    picture: Picture,
    /// The trace's hash; as a number it has more digits than a page can hold.
    trace: String,
    /// Commands that play it again.
    again: Vec<String>,
}

pub(crate) fn render(recording: &Recording) -> String {
    let data = Data {
        recording,
        picture: Picture::of(recording),
        trace: format!("{:016x}", recording.report.trace_hash),
        again: again(recording),
    };
    let json = serde_json::to_string(&data)
        .unwrap_or_else(|error| panic!("a recording of ours is data: {error}"));
    let (head, tail) = TEMPLATE.split_once(DATA).unwrap_or((TEMPLATE, ""));
    let title = escaped(&title(recording));
    // No text in it can end the script it stands in.
    [
        &head.replacen(TITLE, &title, 1),
        &json.replace("</", "<\\/").replace("<!--", "<\\u0021--"),
        tail,
    ]
    .concat()
}

/// What is shown, and how it went; of what failed, the property that is named first.
fn title(recording: &Recording) -> String {
    let (plan, violations) = (&recording.plan, &recording.report.violations);
    let verdict = match violations.first() {
        None => "all held".to_owned(),
        Some(first) => format!("broken: {}", first.checker),
    };
    format!("{}, seed {}: {verdict}", plan.suite, plan.seed)
}

/// Suites and their rules are called as their authors please.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn again(recording: &Recording) -> Vec<String> {
    let seed = recording.plan.seed;
    if Plan::from_seed(seed) == recording.plan {
        vec![
            format!("SIM_SEED={seed} cargo test -p stepwell-sim --test seeds"),
            format!("cargo run --release -p stepwell-sim --example report -- {seed}"),
        ]
    } else {
        // Not the plan that is drawn from its seed: the data beside this page holds it.
        vec![format!("cargo run --release -p stepwell-sim --example report -- seed-{seed}.json")]
    }
}
