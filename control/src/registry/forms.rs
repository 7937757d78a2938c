//! One object in the forms in which it is served: versions of one kind, and other names for it.

use serde_json::Value;

use super::{
    AnyObject, Served,
    decode::{self, FieldValidation},
};
use crate::ApiError;

impl Served {
    /// An object of this resource as clients of `other`, where the same objects are served, see it.
    pub fn shown_as(&self, other: &Self, object: &dyn AnyObject) -> Result<Value, serde_json::Error> {
        let value = if self.is(other) || !other.kind.is_custom() {
            object.to_value()?
        } else {
            serde_json::from_slice(&other.kind.as_served(&object.draft()?.json)?)?
        };
        Ok(match other.conversion {
            Some(conversion) => (conversion.to_served)(value),
            None => value,
        })
    }

    /// The object of this resource that clients of `other` see as `value`. Fields that it has no place for are dropped.
    pub fn read_from(&self, other: &Self, value: &Value) -> Result<Box<dyn AnyObject>, ApiError> {
        let text = decode::Text::of_json(value.to_string().into());
        let (object, _) = decode::object(other, &text, FieldValidation::Ignore)?;
        if self.is(other) || !self.kind.is_custom() {
            return Ok(object);
        }
        let own = object.draft().and_then(|draft| self.kind.as_served(&draft.json));
        let own = own.and_then(|json| self.kind.decode(&json, &mut |_| ()));
        own.map_err(|error| ApiError::Internal(error.to_string()))
    }

    fn is(&self, other: &Self) -> bool {
        self.info.version == other.info.version && self.qualified == other.qualified
    }
}
