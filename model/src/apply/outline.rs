//! A type's fields and what they hold, for those who only want to know what an object may look like.

use std::collections::BTreeMap;

use super::{
    ObjectType,
    schema::{Node, Scalar, TypeId},
};

/// Types that contain themselves (schemas of custom resources) end here.
const MAX_DEPTH: usize = 24;

/// What a value of a type looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outline {
    /// Nobody knows.
    Any,
    Text,
    Number,
    Flag,
    List(Box<Self>),
    /// Any keys, with values of one type.
    Map(Box<Self>),
    /// These fields and no others.
    Fields(BTreeMap<String, Self>),
}

impl ObjectType {
    pub fn outline(&self) -> Outline {
        self.outline_at(self.root, 0)
    }

    fn outline_at(&self, kind: TypeId, depth: usize) -> Outline {
        if depth > MAX_DEPTH {
            return Outline::Any;
        }
        match self.node(kind) {
            Node::Scalar(Scalar::String) => Outline::Text,
            Node::Scalar(Scalar::Numeric) => Outline::Number,
            Node::Scalar(Scalar::Boolean) => Outline::Flag,
            Node::Scalar(Scalar::Any) | Node::Atomic | Node::Deduced => Outline::Any,
            Node::List(list) => Outline::List(Box::new(self.outline_at(list.element, depth + 1))),
            Node::Map(map) => match map.element {
                Some(_) if !map.fields.is_empty() => Outline::Any,
                Some(element) => Outline::Map(Box::new(self.outline_at(element, depth + 1))),
                None => {
                    let fields = map.fields.iter();
                    let outlined =
                        fields.map(|field| (field.name.to_string(), self.outline_at(field.kind, depth + 1)));
                    Outline::Fields(outlined.collect())
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_outlined_down_to_its_scalars() {
        let Outline::Fields(fields) = ObjectType::builtin("io.k8s.api.apps.v1.Deployment").outline() else {
            panic!("a deployment has fields")
        };
        assert_eq!(fields["kind"], Outline::Text);
        let Outline::Fields(spec) = &fields["spec"] else { panic!("a spec has fields") };
        assert_eq!((&spec["replicas"], &spec["paused"]), (&Outline::Number, &Outline::Flag));
        let Outline::Fields(metadata) = &fields["metadata"] else { panic!("metadata has fields") };
        assert_eq!(metadata["labels"], Outline::Map(Box::new(Outline::Text)));
        assert!(!spec.contains_key("replica"));
    }
}
