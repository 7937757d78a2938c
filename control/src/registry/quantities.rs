//! Finds malformed quantities in typed objects.
//!
//! The types keep a quantity as the text that it came as, so that a broken one would first be noticed by validation;
//! in Kubernetes it is noticed by the decoder. Here the decoded object is walked as if it were to be serialized: nothing
//! is written, and only quantities are looked at. Not here: what a field demands of its quantity.

use std::fmt::{self, Display};

use naru_model::quantity::{Quantity, QuantityError};
use serde::{Serialize, ser};

/// The first of `object`'s quantities that is none.
///
/// # Errors
/// Says why, in Kubernetes' words.
pub(super) fn check<T: Serialize>(object: &T) -> Result<(), QuantityError> {
    match object.serialize(Walk { in_quantity: false }) {
        Err(Found(Some(error))) => Err(error),
        Ok(()) | Err(Found(None)) => Ok(()),
    }
}

/// Ends a walk: at a malformed quantity, or where the object itself does not serialize.
#[derive(Debug)]
struct Found(Option<QuantityError>);

impl Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => error.fmt(formatter),
            None => formatter.write_str("the object does not serialize"),
        }
    }
}

impl std::error::Error for Found {}

impl ser::Error for Found {
    fn custom<T: Display>(_: T) -> Self {
        Self(None)
    }
}

#[derive(Clone, Copy)]
struct Walk {
    in_quantity: bool,
}

type Outcome = Result<(), Found>;

macro_rules! pass {
    ($($method:ident($($of:ty),*);)*) => {
        $(fn $method(self, $(_: $of),*) -> Outcome { Ok(()) })*
    };
}

impl ser::Serializer for Walk {
    type Ok = ();
    type Error = Found;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    pass! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_bytes(&[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    fn serialize_str(self, text: &str) -> Outcome {
        if !self.in_quantity {
            return Ok(());
        }
        // Whatever is around it, as Kubernetes takes it.
        text.trim().parse::<Quantity>().map(drop).map_err(|error| Found(Some(error)))
    }

    // Texts that are made only to be written, such as times, are not made.
    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Outcome {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Outcome {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Outcome {
        value.serialize(Self { in_quantity: name == "Quantity" })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Outcome {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Found> {
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, Found> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Found> {
        Ok(self)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Found> {
        Ok(self)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self, Found> {
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Found> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Found> {
        Ok(self)
    }
}

macro_rules! parts {
    ($($of:ident $method:ident($($name:ty)?);)*) => {
        $(impl ser::$of for Walk {
            type Ok = ();
            type Error = Found;

            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $name,)? value: &T) -> Outcome {
                value.serialize(*self)
            }
            fn end(self) -> Outcome {
                Ok(())
            }
        })*
    };
}

parts! {
    SerializeSeq serialize_element();
    SerializeTuple serialize_element();
    SerializeTupleStruct serialize_field();
    SerializeTupleVariant serialize_field();
    SerializeStruct serialize_field(&'static str);
    SerializeStructVariant serialize_field(&'static str);
}

impl ser::SerializeMap for Walk {
    type Ok = ();
    type Error = Found;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Outcome {
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Outcome {
        value.serialize(*self)
    }
    fn end(self) -> Outcome {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quantity_is_found_wherever_it_is() {
        let pod = |cpu: &str, size: &str| {
            let object = json!({
                "metadata": { "name": "abc", "labels": { "a": "none" } },
                "spec": {
                    "containers": [{ "name": "c", "resources": { "limits": { "cpu": cpu } } }],
                    "volumes": [{ "name": "v", "emptyDir": { "sizeLimit": size } }],
                },
            });
            check(&serde_json::from_value::<Pod>(object).expect("a pod"))
        };
        assert_eq!(pod("100m", " 1Gi "), Ok(()));
        assert_eq!(pod("abc", "1Gi"), Err(QuantityError::Format));
        assert_eq!(pod("1", ""), Err(QuantityError::Format));
        assert_eq!(pod("1", "1Xi"), Err(QuantityError::Format));
        assert_eq!(pod("1", "1mm"), Err(QuantityError::Suffix));
        let map = json!({ "data": { "cpu": "abc" } });
        assert_eq!(check(&serde_json::from_value::<ConfigMap>(map).expect("a map")), Ok(()));
    }
}
