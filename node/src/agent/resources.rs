//! Quantities, and what CRI makes of a container's requests and limits.

use std::collections::BTreeMap;

use k8s_cri::v1 as cri;
use k8s_openapi::{
    api::core::v1::{Container, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// A quantity in thousandths, rounded up; `None` where it is not one.
pub fn millis(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let number_end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    // As numerator over denominator of thousandths, so that nothing is lost on the way.
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        _ => exponent(suffix)?,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (top, bottom) = (digits.checked_mul(numerator)?, denominator.checked_mul(scale)?);
    Some(top.div_euclid(bottom) + i128::from(top.rem_euclid(bottom) != 0))
}

/// `e3`, `E-2`: a power of ten, in thousandths.
fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let factor = 10_i128.checked_pow(power.unsigned_abs())?;
    if power >= 0 { Some((factor.checked_mul(1000)?, 1)) } else { Some((1000, factor)) }
}

/// A quantity in whole units, rounded up.
pub fn units(quantity: &Quantity) -> Option<i64> {
    let value = millis(quantity)?;
    i64::try_from(value.div_euclid(1000) + i128::from(value.rem_euclid(1000) != 0)).ok()
}

/// What the node has for pods, for fields that refer to a limit which isn't set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocatable {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
}

pub const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
pub const PERIOD_MICROS: i64 = 100_000;
const MIN_QUOTA_MICROS: i64 = 1000;

/// CPU shares from the request (else the limit), quota and memory from the limits.
pub fn cri_resources(container: &Container) -> cri::LinuxContainerResources {
    let empty = ResourceRequirements::default();
    let resources = container.resources.as_ref().unwrap_or(&empty);
    let cpu = |list: &Option<BTreeMap<String, Quantity>>| {
        list.as_ref().and_then(|list| list.get("cpu")).and_then(millis).map(|value| value as i64)
    };
    let limit = cpu(&resources.limits);
    let request = cpu(&resources.requests).or(limit).unwrap_or(0);
    let memory = resources.limits.as_ref().and_then(|list| list.get("memory")).and_then(units);
    cri::LinuxContainerResources {
        cpu_shares: (request * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES),
        cpu_period: PERIOD_MICROS,
        cpu_quota: limit.map_or(0, |limit| (limit * PERIOD_MICROS / 1000).max(MIN_QUOTA_MICROS)),
        memory_limit_in_bytes: memory.unwrap_or(0),
        ..Default::default()
    }
}

/// The value of a `resourceFieldRef`, or a sentence on why there is none.
pub fn field_value(
    resource: &str,
    divisor: Option<&Quantity>,
    requirements: Option<&ResourceRequirements>,
    allocatable: Allocatable,
) -> Result<String, String> {
    let (list, name) = resource
        .split_once('.')
        .filter(|(list, _)| matches!(*list, "limits" | "requests"))
        .ok_or_else(|| format!("unsupported container resource : {resource}"))?;
    let find =
        |list: Option<&BTreeMap<String, Quantity>>| list.and_then(|list| list.get(name)).and_then(millis);
    let limits = requirements.and_then(|it| it.limits.as_ref());
    let requests = requirements.and_then(|it| it.requests.as_ref());
    let node_has = match name {
        "cpu" => i128::from(allocatable.cpu_millis),
        "memory" => i128::from(allocatable.memory_bytes) * 1000,
        "ephemeral-storage" => i128::from(allocatable.ephemeral_storage_bytes) * 1000,
        _ if name.starts_with("hugepages-") => 0,
        _ => return Err(format!("unsupported container resource : {resource}")),
    };
    let value = match list {
        "limits" => find(limits).unwrap_or(node_has),
        _ => find(requests).or_else(|| find(limits)).unwrap_or(0),
    };
    let divisor = divisor.and_then(millis).filter(|divisor| *divisor > 0).unwrap_or(1000);
    Ok((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_in_all_their_spellings() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("250m", Some(250)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1k", Some(1_000_000)),
            ("2e3", Some(2_000_000)),
            ("5E-1", Some(500)),
            ("100n", Some(1)),
            ("64Mi", Some(67_108_864_000)),
            ("", None),
            ("1Q", None),
        ] {
            assert_eq!(millis(&Quantity(text.into())), expected, "{text}");
        }
    }

    fn container(resources: serde_json::Value) -> Container {
        serde_json::from_value(json!({ "name": "c", "resources": resources })).unwrap()
    }

    #[test]
    fn requests_weigh_and_limits_cap() {
        let both =
            container(json!({ "requests": { "cpu": "500m" }, "limits": { "cpu": "2", "memory": "64Mi" } }));
        let resources = cri_resources(&both);
        assert_eq!((resources.cpu_shares, resources.cpu_quota), (512, 200_000));
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
        let limit_only = cri_resources(&container(json!({ "limits": { "cpu": "1" } })));
        assert_eq!(limit_only.cpu_shares, 1024);
        let none = cri_resources(&container(json!({})));
        assert_eq!((none.cpu_shares, none.cpu_quota, none.memory_limit_in_bytes), (2, 0, 0));
    }

    #[test]
    fn resource_fields_are_divided_and_rounded_up() {
        let requirements: ResourceRequirements =
            serde_json::from_value(json!({ "limits": { "cpu": "1500m", "memory": "100Mi" } })).unwrap();
        let node = Allocatable { cpu_millis: 8000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 0 };
        let value = |resource: &str, divisor: &str| {
            field_value(resource, Some(&Quantity(divisor.into())), Some(&requirements), node).unwrap()
        };
        assert_eq!(value("limits.cpu", "1"), "2");
        assert_eq!(value("limits.cpu", "1m"), "1500");
        assert_eq!(value("requests.memory", "1Mi"), "100");
        assert_eq!(field_value("limits.memory", None, None, node).unwrap(), (1_u64 << 30).to_string());
        assert!(field_value("limits.gpu", None, None, node).is_err());
    }
}
