//! The binary under test, as a user has it: processes, exit codes, text.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part; a test may panic"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// The binary.
const STEPWELL: &str = env!("CARGO_BIN_EXE_stepwell");

/// What a command answered.
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// Code, stdout and stderr in one text, with what differs from time to time masked.
    pub fn golden(&self) -> String {
        masked(&format!(
            "exit {}\n--- stdout\n{}--- stderr\n{}",
            self.code, self.stdout, self.stderr
        ))
    }

    /// The document on stdout.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }
}

/// Runs a command to its end.
pub fn stepwell(args: &[&str]) -> Answer {
    let mut command = Command::new(STEPWELL);
    command
        .args(args)
        .env_remove("STEPWELL_SERVER")
        .env_remove("STEPWELL_LOG")
        .env("USER", "ada")
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// How long anything may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again until it is so: for what a server can only be asked, and does not tell by itself.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "a test of processes has the machine's clock")]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let asked_at = Instant::now();
    while !is_so() {
        assert!(asked_at.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
    }
}

/// A process that ends with the test.
pub struct Running {
    pub child: Child,
    _stdin: ChildStdin,
    /// The line it said when it was ready.
    pub said: serde_json::Value,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(STEPWELL);
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{args:?} said `{line}`: {e}"));
        Self { _stdin: child.stdin.take().unwrap(), child, said }
    }

    /// A server on a free port.
    pub fn server(data: &Path) -> Self {
        Self::server_with(data, &[])
    }

    /// The same, with further arguments.
    pub fn server_with(data: &Path, more: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        let serve =
            ["serve", "--json", "--until-stdin-closes", "--listen", "127.0.0.1:0", "--data", data];
        Self::start(&[&serve, more].concat())
    }

    /// A worker of the measurement's workflows.
    pub fn worker(server: &str) -> Self {
        Self::start(&["bench-worker", "--server", server])
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.said["listening"].as_str().unwrap().to_owned()
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text with ids, times and lines of code made the same for ever. Widths stay, so that tables
/// stay tables.
pub fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = id(rest).or_else(|| time(rest)).or_else(|| since(rest)).or_else(|| line(rest));
        let (mask, len) = taken.unwrap_or_else(|| (first.to_string(), first.len_utf8()));
        out.push_str(&mask);
        rest = &rest[len..];
    }
    out
}

/// `run_` and 26 digits.
fn id(text: &str) -> Option<(String, usize)> {
    let prefix = ["run_", "inc_", "cmd_"].into_iter().find(|p| text.starts_with(p))?;
    let digits =
        text[4..].bytes().take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).count();
    (digits == 26).then(|| (format!("{prefix}{}", "x".repeat(26)), 30))
}

/// `2024-02-29T12:34:56.789Z`
fn time(text: &str) -> Option<(String, usize)> {
    let shape = "dddd-dd-dd?dd:dd:dd";
    let len = text.find('Z').filter(|at| *at == 19 || *at == 23)?;
    let fits = text.bytes().zip(shape.bytes()).all(|(b, s)| match s {
        b'd' => b.is_ascii_digit(),
        b'?' => b == b'T' || b == b' ',
        _ => b == s,
    });
    fits.then(|| (text[..=len].replace(|c: char| c.is_ascii_digit(), "0"), len + 1))
}

/// `+0.123 s`
fn since(text: &str) -> Option<(String, usize)> {
    let bytes = text.as_bytes();
    let fits = bytes.len() >= 8
        && bytes[0] == b'+'
        && bytes[1].is_ascii_digit()
        && bytes[2] == b'.'
        && &bytes[6..8] == b" s";
    fits.then(|| ("+0.000 s".to_owned(), 8))
}

/// `workflow.rs:74`
fn line(text: &str) -> Option<(String, usize)> {
    let digits = text.strip_prefix(".rs:")?.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| (format!(".rs:{}", "0".repeat(digits)), 4 + digits))
}
