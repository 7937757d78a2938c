//! What is recorded of which request: a policy file of `audit.k8s.io/v1`, as kube-apiserver reads it.

use std::path::Path;

use serde::Deserialize;

use crate::auth::{Attributes, User};

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    None,
    /// Who did what when, and with what outcome.
    Metadata,
    /// That and the body of the request.
    Request,
    /// That and the body of the answer.
    RequestResponse,
}

/// When in a request's life something is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// The caller is known, nothing has been done.
    RequestReceived,
    /// The head of a long answer is on its way.
    ResponseStarted,
    ResponseComplete,
    /// The handler failed.
    Panic,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What the policy says of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    omitted: u8,
    pub omits_managed_fields: bool,
}

impl Verdict {
    /// Whether anything is recorded at `stage`.
    pub fn records(self, stage: Stage) -> bool {
        self.level > Level::None && self.omitted & stage.bit() == 0
    }
}

/// A policy that was read and checked.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

/// The first rule that matches a request decides.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    /// # Errors
    /// A sentence that names the file and what is wrong in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the audit policy {}: {error}", path.display()))?;
        Self::parse(&text)
            .map_err(|error| format!("the audit policy {} cannot be used: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        if (file.api_version.as_str(), file.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!(
                "it is a {} of {}, not a Policy of audit.k8s.io/v1",
                file.kind, file.api_version
            ));
        }
        if file.rules.is_empty() {
            return Err("it has no rules, so nothing would be recorded".into());
        }
        for (index, rule) in file.rules.iter().enumerate() {
            rule.check().map_err(|error| format!("rules[{index}]{error}"))?;
        }
        Ok(Self {
            rules: file.rules,
            omit_stages: file.omit_stages,
            omit_managed_fields: file.omit_managed_fields,
        })
    }

    /// What is to be recorded; `user` is None for callers that could not prove who they are.
    pub fn judge(&self, user: Option<&User>, attributes: &Attributes<'_>) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.matches(user, attributes));
        let stages = rule.map_or(&[][..], |rule| rule.omit_stages.as_slice()).iter().chain(&self.omit_stages);
        Verdict {
            level: rule.map_or(Level::None, |rule| rule.level),
            omitted: stages.fold(0, |bits, stage| bits | stage.bit()),
            omits_managed_fields: rule
                .and_then(|rule| rule.omit_managed_fields)
                .unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let is_of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if is_of_resources && !self.non_resource_urls.is_empty() {
            return Err(
                ".nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs".into(),
            );
        }
        for (index, url) in self.non_resource_urls.iter().enumerate() {
            let at = format!(".nonResourceURLs[{index}]: {url:?}");
            if url != "*" && !url.starts_with('/') {
                return Err(format!("{at} must begin with '/'"));
            }
            if url.trim_end_matches('*').contains('*') || url.ends_with("**") {
                return Err(format!("{at} may have a '*' at its end only"));
            }
        }
        for (index, resources) in self.resources.iter().enumerate() {
            let at = format!(".resources[{index}]");
            if resources.resources.is_empty() && !resources.resource_names.is_empty() {
                return Err(format!("{at}.resourceNames: needs resources"));
            }
            if resources.group.contains('/') {
                return Err(format!("{at}.group: {:?} must be a group without a version", resources.group));
            }
        }
        Ok(())
    }

    fn matches(&self, user: Option<&User>, attributes: &Attributes<'_>) -> bool {
        let any = |list: &[String], text: &str| list.is_empty() || has(list, text);
        let is_member = user.is_some_and(|user| self.user_groups.iter().any(|group| user.is_member(group)));
        any(&self.users, user.map_or("", |user| &user.name))
            && (self.user_groups.is_empty() || is_member)
            && any(&self.verbs, attributes.verb)
            && self.is_about(attributes)
    }

    fn is_about(&self, attributes: &Attributes<'_>) -> bool {
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            return !attributes.resource.is_empty()
                && (self.namespaces.is_empty() || has(&self.namespaces, attributes.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|of| of.matches(attributes)));
        }
        if !self.non_resource_urls.is_empty() {
            let is_path = |asked: &String| match asked.strip_suffix('*') {
                Some(prefix) => attributes.path.starts_with(prefix),
                None => asked == attributes.path,
            };
            return attributes.resource.is_empty() && self.non_resource_urls.iter().any(is_path);
        }
        true
    }
}

impl GroupResources {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let is_resource = |asked: &String| {
            asked == "*"
                || attributes.is_of(asked)
                || asked.strip_suffix("/*") == Some(attributes.resource)
                || (!attributes.subresource.is_empty()
                    && asked.strip_prefix("*/") == Some(attributes.subresource))
        };
        self.group == attributes.group
            && (self.resources.is_empty()
                || self.resources.iter().any(is_resource)
                    && (self.resource_names.is_empty() || has(&self.resource_names, attributes.name)))
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rules: &str) -> Result<Policy, String> {
        Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}"))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = parse(
            "omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:kube-proxy'], verbs: [watch], resources: [{group: '', resources: [endpoints]}]}
- {level: None, userGroups: ['system:nodes'], resources: [{group: '', resources: ['*/status']}]}
- {level: None, nonResourceURLs: ['/healthz*', /version]}
- {level: Request, resources: [{group: '', resources: [configmaps], resourceNames: [watched]}], namespaces: [shop]}
- {level: Metadata, resources: [{group: '', resources: [secrets, 'pods/*']}], omitStages: [ResponseStarted]}
- {level: RequestResponse, resources: [{group: apps}], omitManagedFields: true}
- {level: Metadata, namespaces: ['']}
",
        )
        .expect("a policy");
        let jane = User::new("jane", vec![]);
        let node = User::new("system:node:a", vec!["system:nodes".into()]);
        let proxy = User::new("system:kube-proxy", vec![]);
        let of = |verb, group, resource, subresource, namespace, name| Attributes {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        for (user, attributes, level) in [
            (&proxy, of("watch", "", "endpoints", "", "", ""), Level::None),
            (&jane, of("watch", "", "endpoints", "", "", ""), Level::Metadata),
            (&node, of("patch", "", "pods", "status", "shop", "a"), Level::None),
            (&jane, of("patch", "", "pods", "status", "shop", "a"), Level::Metadata),
            (&jane, of("patch", "", "pods", "", "shop", "a"), Level::Metadata),
            (&jane, of("patch", "", "services", "", "shop", "a"), Level::None),
            (&jane, path("/healthz/ping"), Level::None),
            (&jane, path("/metrics"), Level::None),
            (&jane, of("get", "", "configmaps", "", "shop", "watched"), Level::Request),
            (&jane, of("get", "", "configmaps", "", "shop", "other"), Level::None),
            (&jane, of("get", "", "configmaps", "", "bank", "watched"), Level::None),
            (&jane, of("get", "", "secrets", "", "bank", "x"), Level::Metadata),
            (&jane, of("get", "apps", "deployments", "", "bank", "x"), Level::RequestResponse),
            (&jane, of("get", "batch", "jobs", "", "bank", "x"), Level::None),
            (&jane, of("get", "", "nodes", "", "", "x"), Level::Metadata),
        ] {
            assert_eq!(policy.judge(Some(user), &attributes).level, level, "{user:?} {attributes:?}");
        }
        let verdict = policy.judge(Some(&jane), &of("get", "", "secrets", "", "bank", "x"));
        assert!(verdict.records(Stage::ResponseComplete) && verdict.records(Stage::Panic));
        assert!(!verdict.records(Stage::RequestReceived) && !verdict.records(Stage::ResponseStarted));
        assert!(policy.judge(Some(&jane), &of("get", "apps", "x", "", "a", "b")).omits_managed_fields);
        assert_eq!(policy.judge(None, &of("get", "", "nodes", "", "", "")).level, Level::Metadata);
    }

    #[test]
    fn a_bad_policy_is_explained() {
        for (rules, expected) in [
            ("rules: []", "it has no rules"),
            ("rules: [{level: Everything}]", "unknown variant `Everything`"),
            ("rules: [{level: None, user: [a]}]", "unknown field `user`"),
            (
                "rules: [{level: None}, {level: None, nonResourceURLs: [healthz]}]",
                "rules[1].nonResourceURLs[0]",
            ),
            ("rules: [{level: None, nonResourceURLs: ['/a*b']}]", "'*' at its end"),
            ("rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]", "both regular resources"),
            (
                "rules: [{level: None, resources: [{resourceNames: [a]}]}]",
                "rules[0].resources[0].resourceNames",
            ),
            ("rules: [{level: None, omitStages: [Never]}]", "unknown variant `Never`"),
        ] {
            let error = parse(rules).expect_err(rules);
            assert!(error.contains(expected), "{error}");
        }
        let other = Policy::parse("apiVersion: v1\nkind: Pod\n").expect_err("another kind");
        assert!(other.contains("it is a Pod of v1"), "{other}");
        let missing = Policy::read(Path::new("/nonexistent/policy")).expect_err("no file");
        assert!(missing.contains("/nonexistent/policy"), "{missing}");
    }
}
