//! What a build without features brings along.

use std::process::Command;

/// The names of all that `stepwell` depends on, with these arguments.
fn dependencies(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "tree",
        "--package",
        "stepwell",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--offline",
    ]);
    let output = command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

// R5: the core is a function. That it compiles without a runtime and without a store is what proves
// it.
#[test]
fn the_core_depends_on_neither_tokio_nor_fjall() {
    let core = dependencies(&["--no-default-features"]);
    assert!(core.iter().any(|name| name == "serde"), "{core:?}");
    let forbidden = ["tokio", "fjall", "lsm-tree", "rand", "mio"];
    assert!(core.iter().all(|name| !forbidden.contains(&name.as_str())), "{core:?}");
}

// A worker that only talks to a server need not compile the store.
#[test]
fn a_worker_depends_on_tokio_and_not_on_fjall() {
    let worker = dependencies(&["--no-default-features", "--features", "worker"]);
    assert!(worker.iter().any(|name| name == "tokio"), "{worker:?}");
    assert!(worker.iter().all(|name| name != "fjall" && name != "lsm-tree"), "{worker:?}");
}
