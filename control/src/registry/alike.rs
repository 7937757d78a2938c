//! Managers of new objects that are alike, worked out once.
//!
//! A set's pods differ in name and uid, which nobody owns: who creates one owns the same of it as of the one before.
//! Each thread remembers the last few kinds of object that it worked out, whole, so that "alike" is no guess.

use std::{cell::RefCell, collections::VecDeque};

use naru_model::apply::ObjectType;

use super::Call;
use crate::store;

/// So many kinds of object are remembered by a thread, and no object that is longer.
const REMEMBERED: usize = 4;
const LONGEST: usize = 32 << 10;

thread_local! {
    static RECENT: RefCell<VecDeque<(Asked, Option<String>)>> = const { RefCell::new(VecDeque::new()) };
}

/// All that the managers of a new object depend on.
#[derive(Clone)]
pub(super) struct Asked {
    /// As JSON, without name and uid.
    pub object: Vec<u8>,
    object_type: ObjectType,
    resource: String,
    api_version: String,
    manager: String,
    /// In seconds.
    pub time: String,
}

impl Asked {
    /// Of the object whose JSON is `object`, created at `time`.
    pub fn new(call: &Call<'_>, mut object: Vec<u8>, time: String) -> Self {
        for field in ["name", "uid"] {
            store::blank(&mut object, field);
        }
        Self {
            object,
            object_type: call.served.object_type().clone(),
            resource: call.served.qualified.clone(),
            api_version: call.served.api_version.clone(),
            manager: call.manager.to_owned(),
            time,
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.object == other.object
            && self.time == other.time
            && self.manager == other.manager
            && self.resource == other.resource
            && self.api_version == other.api_version
            && self.object_type.is(&other.object_type)
    }

    /// `metadata.managedFields` as JSON, as `work_out` makes it, now or lately.
    pub fn answer<E>(
        self,
        work_out: impl FnOnce(&Self) -> Result<Option<String>, E>,
    ) -> Result<Option<String>, E> {
        let known = RECENT.with_borrow(|recent| {
            recent.iter().find(|(asked, _)| asked.is(&self)).map(|(_, answer)| answer.clone())
        });
        if let Some(answer) = known {
            return Ok(answer);
        }
        let answer = work_out(&self)?;
        if self.object.len() <= LONGEST {
            RECENT.with_borrow_mut(|recent| {
                recent.truncate(REMEMBERED - 1);
                recent.push_front((self, answer.clone()));
            });
        }
        Ok(answer)
    }
}
