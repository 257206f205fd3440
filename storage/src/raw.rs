//! What the disk can do, measured with as little as possible in between.
//!
//! The numbers that a store's own are compared with: a commit cannot be faster than an append and
//! its sync, and not much faster than bare fjall.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

/// Appends of `bytes` with an `fdatasync` each, a second, over about `seconds`, in a file of its
/// own in `dir`.
///
/// The file is removed afterwards.
pub fn append_fdatasync_per_s(dir: &Path, bytes: usize, seconds: u64) -> io::Result<f64> {
    let path = dir.join("append.bench");
    let measured =
        append_all(OpenOptions::new().create(true).append(true).open(&path)?, bytes, seconds);
    std::fs::remove_file(&path)?;
    measured
}

fn append_all(mut file: File, bytes: usize, seconds: u64) -> io::Result<f64> {
    let block = vec![0x5a; bytes];
    let rounds = rounds(seconds, || {
        file.write_all(&block)?;
        file.sync_data()
    })?;
    Ok(per_s(&rounds))
}

/// The median time in microseconds, and the number a second, of synced commits of `puts` puts of
/// `bytes_per_put` bytes (of which 24 are key) on a bare fjall database in `dir`, over about
/// `seconds`.
///
/// The database is removed afterwards.
pub fn fjall_synced_commits(
    dir: &Path,
    bytes_per_put: usize,
    puts: usize,
    seconds: u64,
) -> fjall::Result<(f64, f64)> {
    let path = dir.join("fjall.bench");
    let measured = commit_all(&Database::builder(&path).open()?, bytes_per_put, puts, seconds);
    std::fs::remove_dir_all(&path)?;
    measured
}

fn commit_all(
    db: &Database,
    bytes_per_put: usize,
    puts: usize,
    seconds: u64,
) -> fjall::Result<(f64, f64)> {
    let rows = db.keyspace("rows", KeyspaceCreateOptions::default)?;
    let value = vec![0x5a; bytes_per_put.saturating_sub(24)];
    let mut number = 0u64;
    let mut rounds = rounds(seconds, || {
        let mut batch = db.batch().durability(Some(PersistMode::SyncData));
        for _ in 0..puts {
            number += 1;
            batch.insert(&rows, format!("{number:024}"), value.as_slice());
        }
        batch.commit()
    })?;
    let per_s = per_s(&rounds);
    rounds.sort_unstable();
    let median = rounds.get(rounds.len() / 2).copied().unwrap_or_default();
    Ok((median.as_secs_f64() * 1e6, per_s))
}

/// How long each call took, until `seconds` are over.
#[expect(clippy::disallowed_methods, reason = "a measurement of the machine, not a decision")]
fn rounds<E>(seconds: u64, mut round: impl FnMut() -> Result<(), E>) -> Result<Vec<Duration>, E> {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = Vec::new();
    let mut begin = Instant::now();
    while begin < until {
        round()?;
        let end = Instant::now();
        rounds.push(end - begin);
        begin = end;
    }
    Ok(rounds)
}

fn per_s(rounds: &[Duration]) -> f64 {
    let total: Duration = rounds.iter().sum();
    if total.is_zero() { 0.0 } else { rounds.len() as f64 / total.as_secs_f64() }
}
