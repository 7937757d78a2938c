//! PodTemplates: templates that lie ready for others to use.

use k8s_openapi::{
    api::core::v1::{PodTemplate, PodTemplateSpec},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{
    Column, Kind,
    podspec::{self, warnings},
    text,
};

pub struct PodTemplates;

static RESOURCE: ResourceInfo = text::core_resource("PodTemplate", "podtemplates", "podtemplate", &[]);

const COLUMNS: &[Column] = &[
    text::NAME,
    Column { priority: 0, ..text::CONTAINERS },
    Column { priority: 0, ..text::IMAGES },
    text::column("Pod Labels", "string", 0, "The labels for the pod template."),
];

impl Kind for PodTemplates {
    type Object = PodTemplate;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, template: &mut PodTemplate) {
        podspec::default_template(template.template.get_or_insert_default());
    }

    fn validate(&self, template: &PodTemplate, errors: &mut FieldErrors) {
        let empty = PodTemplateSpec::default();
        let spec = template.template.as_ref().unwrap_or(&empty);
        podspec::validate_template(spec, &Path::new("template"), errors);
    }

    fn is_spec_changed(&self, new: &PodTemplate, old: &PodTemplate) -> bool {
        new.template != old.template
    }

    fn warnings(&self, template: &PodTemplate) -> Vec<String> {
        let Some(template) = &template.template else { return Vec::new() };
        let (meta, spec) = (template.metadata.clone().unwrap_or_default(), template.spec.as_ref());
        spec.map(|spec| warnings::warnings(&meta, spec, &Path::new("template"))).unwrap_or_default()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, template: &PodTemplate, _now: Timestamp) -> Vec<Value> {
        let spec = template.template.as_ref();
        let (names, images) = text::containers(spec);
        let labels = spec.and_then(|spec| spec.metadata.as_ref()?.labels.as_ref());
        vec![text::name(&template.metadata), names.into(), images.into(), text::labels(labels).into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{at, check, create};

    #[test]
    fn the_template_is_defaulted_and_checked() {
        let (template, errors) = create(
            &PodTemplates,
            "{metadata: {name: t, namespace: d}, template: {spec: {containers: [{name: c, image: i}]}}}",
        );
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&template, "/template/spec/restartPolicy"), "Always");
        check(&PodTemplates, "{metadata: {name: t}}", &["template.spec.containers: Required value"]);
    }
}
