//! DeviceTaintRules: taints for devices, whatever their drivers say.

use k8s_openapi::{
    api::resource::v1::{DeviceTaintRule, DeviceTaintRuleStatus},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, conditions},
};
use serde_json::Value;

use super::{cluster_resource, date_taint, pool_name, validate_taint};
use crate::registry::{
    Column, Kind,
    kind::{Context, age},
    podspec::{OrEmpty, check},
    text,
};

pub struct DeviceTaintRules;

const MAX_CONDITIONS: usize = 8;

static RESOURCE: ResourceInfo = ResourceInfo {
    subresources: &["status"],
    ..cluster_resource("DeviceTaintRule", "devicetaintrules", "devicetaintrule")
};

const COLUMNS: &[Column] = &[text::NAME, text::AGE];

impl Kind for DeviceTaintRules {
    type Object = DeviceTaintRule;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn prepare_create(&self, rule: &mut DeviceTaintRule, context: &Context<'_>) {
        date_taint(&mut rule.spec.taint, context.now);
        rule.status = Some(DeviceTaintRuleStatus::default());
    }

    fn prepare_update(&self, new: &mut DeviceTaintRule, old: &DeviceTaintRule, context: &Context<'_>) {
        date_taint(&mut new.spec.taint, context.now);
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut DeviceTaintRule,
        old: &DeviceTaintRule,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, rule: &DeviceTaintRule, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        if let Some(selector) = &rule.spec.device_selector {
            let path = path.child("deviceSelector");
            if let Some(driver) = &selector.driver {
                check::csi_driver(driver, &path.child("driver"), errors);
            }
            if let Some(pool) = &selector.pool {
                pool_name(pool, &path.child("pool"), errors);
            }
            if let Some(device) = &selector.device {
                check::dns_label(device, &path.child("device"), errors);
            }
        }
        validate_taint(&rule.spec.taint, &path.child("taint"), errors);
    }

    fn validate_status_update(
        &self,
        new: &DeviceTaintRule,
        _old: &DeviceTaintRule,
        errors: &mut FieldErrors,
    ) {
        let path = Path::new("status").child("conditions");
        let states = new.status.as_ref().map(|status| status.conditions.or_empty()).unwrap_or_default();
        conditions::conditions(&path, states, errors);
        if states.len() > MAX_CONDITIONS {
            errors.too_many(&path, states.len(), MAX_CONDITIONS);
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, rule: &DeviceTaintRule, now: Timestamp) -> Vec<Value> {
        let meta = &rule.metadata;
        vec![meta.name.or_empty().into(), age(meta.creation_timestamp.as_ref(), now).into()]
    }
}
