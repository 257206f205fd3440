//! What `stepwell bench` tells. How much it is, is no matter of a test.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stepwell;

use stepwell::stepwell;

// A1: a start returns before the body begins, with handlers that are busy for seconds. The figure
// is the measurement's; that it is one, made while all handlers were busy, is the test's.
#[test]
fn starts_are_measured_with_all_handlers_busy() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let measured = stepwell(&["bench", "--starts", "300", "--dir", dir, "--json"]);
    assert_eq!(measured.code, 0, "{}{}", measured.stdout, measured.stderr);
    let figures = measured.json();
    assert_eq!(
        (&figures["mode"], &figures["measured"], &figures["in_flight"]),
        (&"served".into(), &"starts".into(), &300.into())
    );
    assert_eq!(figures["errors"], 0, "{figures}");
    let call = |name: &str| figures[name].as_u64().unwrap();
    assert!(call("call_p50_us") > 0, "{figures}");
    assert!(call("call_p99_us") >= call("call_p50_us"), "{figures}");
    assert!(call("beside_queued") > 0, "{figures}");
}

// A long line costs no more than a short one. The figures are the measurement's; that they are
// some, is the test's.
#[test]
fn a_long_line_is_measured_beside_a_short_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let measured = stepwell(&["bench", "--queued", "5000", "--dir", dir, "--json"]);
    assert_eq!(measured.code, 0, "{}{}", measured.stdout, measured.stderr);
    let figures = measured.json();
    assert_eq!((&figures["measured"], &figures["in_flight"]), (&"queued".into(), &5_000.into()));
    assert_eq!(figures["errors"], 0, "{figures}");
    let positive = |name: &str| assert!(figures[name].as_f64().unwrap() > 0.0, "{name}: {figures}");
    positive("dispatches_per_s");
    positive("dispatches_per_s_few");
    positive("urgent_ms");
    positive("ready_s");
}

/// A CI that has waited long enough, or a service manager, sends SIGTERM: everything stops, and
/// nothing stays on the disk.
#[test]
fn sigterm_ends_a_measurement_as_ctrl_c_does() {
    let dir = tempfile::tempdir().unwrap();
    let names = || -> Vec<_> {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stepwell"));
    command.args(["bench", "--seconds", "600", "--dir"]).arg(dir.path());
    command.stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let until = |met: &dyn Fn() -> bool| {
        let met = (0..3_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            met()
        });
        assert!(met, "after 30 s: {:?}", names());
    };
    until(&|| !names().is_empty());
    let pid = child.id().to_string();
    let killed = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    until(&|| names().is_empty());
}
