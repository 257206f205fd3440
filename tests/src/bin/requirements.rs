//! Runs the tests that `docs/requirements.md` names, and prints a line for each row: `requirements
//! [--json] [ROW …]`.
//!
//! A row of the table is `| A12 | the requirement | what does it | tests |`; a test is ``
//! `PACKAGE/TARGET NAME` ``, the target `lib` or that of an integration test; `` `NAME=VALUE …
//! PACKAGE/TARGET NAME` `` is one whose environment has these besides. A row passes if it names a
//! test and all of them pass; a test that is not there has not passed.
//!
//! Exit 0 if each row passed, 1 if one did not, 2 if the page cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// A test's package, target and name, and what is set in its environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    set: Vec<(String, String)>,
    package: String,
    target: String,
    name: String,
}

#[derive(Debug)]
struct Row {
    name: String,
    requirement: String,
    tests: Vec<Test>,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.set {
            write!(f, "{name}={value} ")?;
        }
        write!(f, "{}/{} {}", self.package, self.target, self.name)
    }
}

fn main() -> ExitCode {
    let (mut json, mut wanted) = (false, BTreeSet::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            row => {
                wanted.insert(row.to_owned());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = root.join("docs/requirements.md");
    let rows = std::fs::read_to_string(&page)
        .map_err(|error| format!("{} cannot be read: {error}", page.display()))
        .and_then(|text| rows(&text));
    let mut rows = match rows {
        Ok(rows) => rows,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(2);
        }
    };
    rows.retain(|row| wanted.is_empty() || wanted.contains(&row.name));
    if rows.is_empty() {
        eprintln!("error: no row of this name in {}", page.display());
        return ExitCode::from(2);
    }
    let passed = run(&root, &rows);
    let mut all = true;
    let mut told = Vec::new();
    for row in &rows {
        let missed: Vec<&Test> = row.tests.iter().filter(|t| !passed.contains(t)).collect();
        let holds = missed.is_empty() && !row.tests.is_empty();
        all &= holds;
        if json {
            told.push(serde_json::json!({
                "row": row.name,
                "requirement": row.requirement,
                "passed": holds,
                "tests": row.tests.iter().map(|test| &test.name).collect::<Vec<_>>(),
                "missed": missed.iter().map(|test| &test.name).collect::<Vec<_>>(),
            }));
            continue;
        }
        let verdict = if holds { "passed" } else { "NOT PASSED" };
        println!("{:<4} {verdict:<10}  {}  ({} tests)", row.name, row.requirement, row.tests.len());
        for test in missed {
            println!("       {test}");
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&told).expect("rows are data"));
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The rows of the page's table.
fn rows(text: &str) -> Result<Vec<Row>, String> {
    let lines = text.lines().filter(|line| line.starts_with("| A"));
    lines.map(row).collect()
}

fn row(line: &str) -> Result<Row, String> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [name, requirement, _, tests] = cells[..] else {
        return Err(format!("a row has four cells: {line}"));
    };
    let quoted = tests.split('`').skip(1).step_by(2);
    let tests = quoted.map(|quoted| {
        test(quoted).ok_or_else(|| format!("`{quoted}` is no test: PACKAGE/TARGET NAME"))
    });
    Ok(Row {
        name: name.to_owned(),
        requirement: requirement.to_owned(),
        tests: tests.collect::<Result<_, _>>()?,
    })
}

fn test(quoted: &str) -> Option<Test> {
    let mut words = quoted.split(' ').peekable();
    let mut set = Vec::new();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        set.push((name.to_owned(), value.to_owned()));
        words.next();
    }
    let (binary, name) = (words.next()?, words.next()?);
    let (package, target) = binary.split_once('/')?;
    Some(Test {
        set,
        package: package.to_owned(),
        target: target.to_owned(),
        name: name.to_owned(),
    })
}

/// Runs what the rows name, one test binary after the other, and tells what passed.
fn run(root: &Path, rows: &[Row]) -> BTreeSet<Test> {
    // By all that one call of the binary has in common.
    let mut binaries: BTreeMap<Test, BTreeSet<&str>> = BTreeMap::new();
    for test in rows.iter().flat_map(|row| &row.tests) {
        let binary = Test { name: String::new(), ..test.clone() };
        binaries.entry(binary).or_default().insert(&test.name);
    }
    let mut passed = BTreeSet::new();
    for (binary, names) in binaries {
        eprintln!("{} tests of {}", names.len(), binary.to_string().trim_end());
        let of_binary = passed_of(root, &binary, &names);
        passed.extend(of_binary.into_iter().map(|name| Test { name, ..binary.clone() }));
    }
    passed
}

fn passed_of(root: &Path, binary: &Test, names: &BTreeSet<&str>) -> Vec<String> {
    let (package, target) = (binary.package.as_str(), binary.target.as_str());
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).envs(binary.set.iter().map(|(name, value)| (name, value))).args([
        "test",
        "--quiet",
        "--package",
        package,
    ]);
    match target {
        "lib" => cargo.arg("--lib"),
        target => cargo.args(["--test", target]),
    };
    // `--quiet` would print dots.
    cargo.args(["--", "--exact", "--format", "pretty"]).args(names);
    let output = cargo.stdout(Stdio::piped()).stderr(Stdio::inherit()).output();
    let text = output.map_or_else(
        |error| format!("cargo cannot be run: {error}"),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let passed: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok"))
        .map(str::to_owned)
        .collect();
    if passed.len() < names.len() {
        eprintln!("{text}");
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_its_tests() {
        let rows = rows("text\n| row | a | b | c |\n|---|---|---|---|\n| A3 | durable | `start` | `stepwell/lib a::b`, `stepwell-sim/suites c_d` |\n").unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].name, "A3");
        assert_eq!(rows[0].tests[1], test("stepwell-sim/suites c_d").unwrap());
        let with = test("SIM_SEEDS=1000 A=b stepwell-sim/seeds c_d").unwrap();
        assert_eq!(with.set[0], ("SIM_SEEDS".to_owned(), "1000".to_owned()));
        assert_eq!(with.to_string(), "SIM_SEEDS=1000 A=b stepwell-sim/seeds c_d");
        assert!(row("| A3 | durable | x | `nothing` |").is_err());
    }
}
