//! What a suite declares and never reaches: misspelt, as a rule, and then it tests less than it
//! seems to.

use std::collections::{BTreeMap, BTreeSet};

use super::Ready;
use crate::plan::{Point, Scripted};
use crate::program::Program;

/// Of all seeds together: how often a point was passed at most, and how many runs ended in which
/// way.
pub(super) fn unreached(
    suite: &Ready,
    passed: &BTreeMap<Point, u32>,
    runs: &BTreeMap<String, u64>,
) -> Vec<String> {
    if runs.is_empty() {
        return vec!["no run was started in any seed: look at what `workload` draws".to_owned()];
    }
    let called = called(passed.keys());
    // Where nothing went well, an effect may be out of reach for other reasons.
    let mut told = match runs.contains_key("Completed") {
        true => uncalled(&suite.program, &called),
        false => Vec::new(),
    };
    let script = suite.script.iter();
    told.extend(script.filter_map(|scripted| unpassed(scripted, passed, &called)));
    told
}

/// The effects that were called, as the points tell that were passed.
pub(super) fn called<'a>(passed: impl Iterator<Item = &'a Point>) -> BTreeSet<&'a str> {
    let effect = |point: &'a Point| match point {
        Point::BeforeEffect(effect) => Some(effect.as_str()),
        _ => None,
    };
    passed.filter_map(effect).collect()
}

/// Effects that were declared and not called, although others were. One that is optional may be
/// missed.
pub(super) fn uncalled(program: &Program, called: &BTreeSet<&str>) -> Vec<String> {
    let missed = |(name, effect): &(&String, &crate::ledger::Effect)| {
        !called.is_empty() && !effect.is_optional() && !called.contains(name.as_str())
    };
    let declared = program.effects.iter().filter(missed);
    declared
        .map(|(name, _)| format!("effect `{name}` was declared and never called; {}", were(called)))
        .collect()
}

fn unpassed(
    scripted: &Scripted,
    passed: &BTreeMap<Point, u32>,
    called: &BTreeSet<&str>,
) -> Option<String> {
    let Scripted { point, nth, .. } = scripted;
    let most = passed.get(point).copied().unwrap_or_default();
    let instead = match point {
        _ if most >= *nth => return None,
        _ if most > 0 => format!("no seed passes that more than {most} times"),
        Point::BeforeEffect(_) | Point::AfterEffect(_) => were(called),
        _ => "nothing passes there".to_owned(),
    };
    Some(format!("the script strikes {point}, at passing {nth}, and that never came; {instead}"))
}

fn were(called: &BTreeSet<&str>) -> String {
    let names: Vec<String> = called.iter().map(|name| format!("`{name}`")).collect();
    match names.is_empty() {
        true => "nothing was called".to_owned(),
        false => format!("called were: {}", names.join(", ")),
    }
}
