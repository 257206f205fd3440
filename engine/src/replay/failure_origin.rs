//! The origin of a function's failure: what a redrive would have to supersede ([`FunctionEnd`]).

use twox_hash::XxHash3_64;

use crate::model::entry::FunctionEnd;
use crate::model::failure::Failure;
use crate::model::id::CommandIndex;
use crate::numbered::encode_fields;

/// The failed steps that a function has seen, and whether it has asked for anything since.
#[derive(Debug, Default)]
pub(crate) struct FailureOrigin {
    asked: u32,
    seen: Vec<(CommandIndex, u64)>,
    /// The entry of the first one since it asked last.
    failed_at: Option<u32>,
}

impl FailureOrigin {
    /// It is about to see this one.
    pub(crate) fn sees(&mut self, index: u32, number: CommandIndex, failure: &Failure) {
        self.seen.push((number, hash_of(failure)));
        self.failed_at.get_or_insert(index);
    }

    /// It has asked for so many commands.
    pub(crate) fn asked(&mut self, asked: u32) {
        if asked > self.asked {
            (self.asked, self.failed_at) = (asked, None);
        }
    }

    /// The entry of the first failed step that it has seen since it asked last.
    pub(crate) fn failed_at(&self) -> Option<u32> {
        self.failed_at
    }

    /// It has ended with this.
    pub(crate) fn end(&self, failure: &Failure) -> FunctionEnd {
        let hash = hash_of(failure);
        let same = self.seen.iter().rev().find(|(_, of)| *of == hash);
        FunctionEnd {
            failed_at: self.failed_at,
            went_on: match self.failed_at {
                None => same.map(|(number, _)| *number),
                Some(_) => None,
            },
        }
    }
}

fn hash_of(failure: &Failure) -> u64 {
    let mut bytes = Vec::new();
    encode_fields(failure, &mut bytes);
    XxHash3_64::oneshot(&bytes)
}
