//! Names of custom resources as the rest of the server knows names: for as long as the process lives.
//!
//! Each distinct name is kept once and never given back, so that a definition that comes and goes takes no more memory
//! each time. Only who may create definitions can make this grow.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames;
use naru_model::{ResourceInfo, resource::ALL_VERBS};

static TEXTS: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
static LISTS: Mutex<Option<HashSet<&'static [&'static str]>>> = Mutex::new(None);
static INFOS: Mutex<Option<HashSet<&'static ResourceInfo>>> = Mutex::new(None);

pub fn text(text: &str) -> &'static str {
    let mut known = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(known) = known.get(text) {
        return known;
    }
    let kept: &'static str = Box::leak(text.into());
    known.insert(kept);
    kept
}

fn list<'a>(texts: impl IntoIterator<Item = &'a String>) -> &'static [&'static str] {
    let list: Vec<&'static str> = texts.into_iter().map(|item| text(item)).collect();
    let mut known = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(known) = known.get(&*list) {
        return known;
    }
    let kept: &'static [&'static str] = Box::leak(list.into());
    known.insert(kept);
    kept
}

/// The facts of one version of a custom resource.
pub struct Facts<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub names: &'a CustomResourceDefinitionNames,
    pub is_namespaced: bool,
    pub subresources: &'static [&'static str],
    /// Nothing more is created while the definition is on its way out.
    pub is_terminating: bool,
}

impl Facts<'_> {
    pub fn keep(&self) -> &'static ResourceInfo {
        let names = self.names;
        let info = ResourceInfo {
            group: text(self.group),
            version: text(self.version),
            kind: text(&names.kind),
            plural: text(&names.plural),
            singular: text(names.singular.as_deref().unwrap_or_default()),
            short_names: list(names.short_names.iter().flatten()),
            categories: list(names.categories.iter().flatten()),
            namespaced: self.is_namespaced,
            subresources: self.subresources,
            verbs: if self.is_terminating {
                &["delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            } else {
                ALL_VERBS
            },
        };
        let mut known = INFOS.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        if let Some(known) = known.get(&info) {
            return known;
        }
        let kept: &'static ResourceInfo = Box::leak(Box::new(info));
        known.insert(kept);
        kept
    }
}
