//! The rules of replay, one by one, against a scripted engine; and all of them at once, at random.

mod harness;
mod limits;
mod memo;
mod random;
mod redrive;
mod rules;
