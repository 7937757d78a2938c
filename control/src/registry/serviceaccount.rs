//! ServiceAccounts.

use k8s_openapi::{api::core::v1::ServiceAccount, jiff::Timestamp};
use naru_model::ResourceInfo;
use serde_json::Value;

use super::{Column, Kind, kind::age, podspec::OrEmpty, text};

pub struct ServiceAccounts;

static RESOURCE: ResourceInfo = ResourceInfo {
    subresources: &["token"],
    ..text::core_resource("ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Secrets",
        "string",
        0,
        "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use. Pods are only limited to this list if this service account has a \"kubernetes.io/enforce-mountable-secrets\" annotation set to \"true\". The \"kubernetes.io/enforce-mountable-secrets\" annotation is deprecated since v1.32. Prefer separate namespaces to isolate access to mounted secrets. This field should not be used to find auto-generated service account token secrets for use outside of pods. Instead, tokens can be requested directly using the TokenRequest API, or service account token secrets can be manually created. More info: https://kubernetes.io/docs/concepts/configuration/secret",
    ),
    text::AGE,
];

impl Kind for ServiceAccounts {
    type Object = ServiceAccount;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        vec![
            account.metadata.name.or_empty().into(),
            account.secrets.or_empty().len().into(),
            age(account.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}
