//! A chain: each step's output is hashed onto the one before, so that the result proves that all of
//! them ran, in their order, and that each was taken in once.

use std::time::Duration;

use stepwell::{Ctx, Failure};

use super::{HARD, call, retry};
use crate::draw::hash;
use crate::outside::Outside;
use crate::plan::ChainInput;

pub(super) async fn chain(ctx: Ctx, input: ChainInput, outside: Outside) -> Result<u64, Failure> {
    let mut link = input.salt;
    for place in 0..input.links {
        let value = ctx
            .step("link", |step| call(outside.clone(), step, request(place, link), HARD))
            .retry(retry())
            .soft_timeout(HARD)
            .timeout(HARD)
            .await?;
        link = next(link, value);
        if (place + 1).is_multiple_of(input.sleeps_every) {
            ctx.sleep(Duration::from_millis(input.sleep_ms)).await?;
        }
    }
    Ok(link)
}

/// What the step at `place` asks for.
pub(crate) fn request(place: u32, link: u64) -> String {
    format!("link {place} on {link:016x}")
}

fn next(link: u64, value: u64) -> u64 {
    hash(link, format_args!("link {value}"))
}

/// The links before each step, and the result, given what each key is worth.
pub(crate) fn expected(input: &ChainInput, value: impl Fn(u32) -> u64) -> (Vec<u64>, u64) {
    let (mut links, mut link, mut number) = (Vec::new(), input.salt, 0);
    for place in 0..input.links {
        links.push(link);
        link = next(link, value(number));
        // A sleep takes a number too.
        number += if (place + 1).is_multiple_of(input.sleeps_every) { 2 } else { 1 };
    }
    (links, link)
}
