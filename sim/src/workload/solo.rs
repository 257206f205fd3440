//! A function without steps: one implicit step, tried again as a whole.

use stepwell::{Ctx, Failure};

use crate::plan::Solo;

pub(super) async fn solo(ctx: Ctx, input: Solo) -> Result<(u64, String), Failure> {
    if ctx.attempt() <= input.failures {
        return Err(Failure::retryable("not yet"));
    }
    Ok((input.answer, input.pad))
}
