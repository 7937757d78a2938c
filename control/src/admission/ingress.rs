//! DefaultIngressClass: an Ingress that names no class gets the default one.

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::{
    chain::{Plugin, Write},
    default_class,
};
use crate::{ApiError, registry::AnyObject};

const CLASSES: &str = "ingressclasses.networking.k8s.io";
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How Ingresses named their class before they had a field for it.
const ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn mutate(&self, write: &Write<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
        let Some(ingress) = object.get_mut::<Ingress>().filter(|_| write.is_create()) else { return Ok(()) };
        let is_annotated = ingress
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|annotations| annotations.contains_key(ANNOTATION));
        let spec = ingress.spec.get_or_insert_default();
        if spec.ingress_class_name.is_none() && !is_annotated {
            let class = default_class::<IngressClass>(write.view, CLASSES, &[IS_DEFAULT]);
            spec.ingress_class_name = class.and_then(|class| class.metadata.name.clone());
        }
        Ok(())
    }
}
