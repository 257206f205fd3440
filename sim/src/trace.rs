//! What happened, in order, as text and as one number.
//!
//! Equal seeds must give equal traces, line by line; the number is a hash over all lines, so that
//! whole runs can be compared cheaply. Lines hold simulated milliseconds, never an `Instant`, which
//! means nothing outside its host's life.

use std::fmt::{self, Write};

/// A trace under way.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: Fnv,
    count: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace, which keeps its lines if it is told to.
    pub(crate) fn new(keeps_lines: bool) -> Self {
        Self { hash: Fnv(0xcbf2_9ce4_8422_2325), count: 0, lines: keeps_lines.then(Vec::new) }
    }

    /// Adds a line.
    pub(crate) fn note(&mut self, line: fmt::Arguments<'_>) {
        self.count += 1;
        let _ = writeln!(self.hash, "{line}");
        if let Some(lines) = &mut self.lines {
            lines.push(line.to_string());
        }
    }

    /// The hash over all lines.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.0
    }

    /// How many lines there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The lines, if they were kept.
    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

/// FNV-1a over text: written out, because it must not change with a library or a build.
#[derive(Debug)]
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

/// The first line in which two traces of one seed differ, with what led there, and the usual
/// causes.
///
/// ```
/// let told = stepwell_sim::first_difference(&["a".into(), "b".into()], &["a".into(), "c".into()]).unwrap();
/// assert!(told.contains("line 2"));
/// assert!(stepwell_sim::first_difference(&["a".into()], &["a".into()]).is_none());
/// ```
pub fn first_difference(first: &[String], second: &[String]) -> Option<String> {
    let at = first.iter().zip(second).position(|(a, b)| a != b);
    let at = match at {
        None if first.len() == second.len() => return None,
        None => first.len().min(second.len()),
        Some(at) => at,
    };
    let mut told =
        format!("the same seed took two paths: the traces differ in line {}\n\n", at + 1);
    for line in &first[at.saturating_sub(8)..at] {
        let _ = writeln!(told, "         {line}");
    }
    let line = |lines: &[String]| {
        lines.get(at).cloned().unwrap_or_else(|| "(the trace has ended)".to_owned())
    };
    let _ = writeln!(told, "first    {}", line(first));
    let _ = writeln!(told, "second   {}\n", line(second));
    told.push_str(
        "usual causes: the wall clock or an Instant read instead of the injected clock; iteration over a HashMap; an\n\
         unbiased tokio::select!; a random id that does not come from the injected entropy; a thread or spawn_blocking",
    );
    Some(told)
}
