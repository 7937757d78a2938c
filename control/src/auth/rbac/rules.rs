//! Policy rules: what one allows, and whether some cover others.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::auth::Attributes;

/// Verbs that are told apart by a bit; others are compared as text.
const COMMON: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
const ANY: &str = "*";

/// A rule, prepared for being asked often.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// One bit for each of `COMMON` that the rule allows.
    common: u8,
    pub source: PolicyRule,
}

impl Rule {
    pub fn new(source: PolicyRule) -> Self {
        let allows = |verb: &str| source.verbs.iter().any(|of| of == ANY || of == verb);
        let common = COMMON.iter().enumerate().filter(|(_, verb)| allows(verb));
        Self { common: common.fold(0, |bits, (index, _)| bits | 1 << index), source }
    }

    /// Whether the rule alone allows what is asked.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !self.allows_verb(asked.verb) {
            return false;
        }
        let rule = &self.source;
        if asked.resource.is_empty() {
            return list(rule.non_resource_urls.as_ref()).iter().any(|url| url_covers(url, asked.path));
        }
        has(list(rule.api_groups.as_ref()), asked.group)
            && list(rule.resources.as_ref()).iter().any(|resource| is_resource(resource, asked))
            && allows_name(list(rule.resource_names.as_ref()), asked.name)
    }

    fn allows_verb(&self, verb: &str) -> bool {
        match COMMON.iter().position(|common| *common == verb) {
            Some(index) => self.common & (1 << index) != 0,
            None => has(&self.source.verbs, verb),
        }
    }
}

fn is_resource(rule: &str, asked: &Attributes<'_>) -> bool {
    rule == ANY
        || asked.is_of(rule)
        || (!asked.subresource.is_empty() && rule.strip_prefix("*/") == Some(asked.subresource))
}

fn allows_name(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|of| of == name)
}

fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

fn list(of: Option<&Vec<String>>) -> &[String] {
    of.map_or(&[], Vec::as_slice)
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|of| of == ANY || of == wanted)
}

/// What of `wanted` is not covered by any one of `held`, in pieces that each name one verb, group, resource and name.
pub fn missing<'a>(held: impl Iterator<Item = &'a PolicyRule>, wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let held: Vec<&PolicyRule> = held.collect();
    let is_missing = |piece: &PolicyRule| !held.iter().any(|rule| covers(rule, piece));
    wanted.iter().flat_map(pieces).filter(is_missing).collect()
}

fn pieces(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| Some(vec![text.clone()]);
    let mut pieces = Vec::new();
    for verb in &rule.verbs {
        let piece = PolicyRule { verbs: vec![verb.clone()], ..PolicyRule::default() };
        for url in list(rule.non_resource_urls.as_ref()) {
            pieces.push(PolicyRule { non_resource_urls: one(url), ..piece.clone() });
        }
        for group in list(rule.api_groups.as_ref()) {
            for resource in list(rule.resources.as_ref()) {
                let piece = PolicyRule { api_groups: one(group), resources: one(resource), ..piece.clone() };
                if list(rule.resource_names.as_ref()).is_empty() {
                    pieces.push(piece.clone());
                }
                for name in list(rule.resource_names.as_ref()) {
                    pieces.push(PolicyRule { resource_names: one(name), ..piece.clone() });
                }
            }
        }
    }
    pieces
}

/// Whether `rule` allows all that `piece`, one of [`pieces`], does.
fn covers(rule: &PolicyRule, piece: &PolicyRule) -> bool {
    let all = |of: &[String], covered: &dyn Fn(&str) -> bool| of.iter().all(|text| covered(text));
    let names = list(rule.resource_names.as_ref());
    all(&piece.verbs, &|verb| has(&rule.verbs, verb))
        && all(list(piece.api_groups.as_ref()), &|group| has(list(rule.api_groups.as_ref()), group))
        && all(list(piece.resources.as_ref()), &|resource| {
            covers_resource(list(rule.resources.as_ref()), resource)
        })
        && all(list(piece.non_resource_urls.as_ref()), &|path| {
            list(rule.non_resource_urls.as_ref()).iter().any(|url| url_covers(url, path))
        })
        && (names.is_empty()
            || (!list(piece.resource_names.as_ref()).is_empty()
                && all(list(piece.resource_names.as_ref()), &|name| names.iter().any(|of| of == name))))
}

fn covers_resource(rules: &[String], resource: &str) -> bool {
    has(rules, resource)
        || resource
            .split_once('/')
            .is_some_and(|(_, subresource)| rules.iter().any(|of| of.strip_prefix("*/") == Some(subresource)))
}

/// Pieces as Kubernetes lists them in a refusal: those that differ in their verb only are one, each is a line.
pub fn describe(missing: &[PolicyRule]) -> String {
    let mut merged: Vec<PolicyRule> = Vec::new();
    for piece in missing {
        let is_simple = |rule: &PolicyRule| {
            list(rule.resource_names.as_ref()).is_empty() && list(rule.non_resource_urls.as_ref()).is_empty()
        };
        let same = merged.iter_mut().find(|rule| {
            is_simple(rule)
                && is_simple(piece)
                && rule.api_groups == piece.api_groups
                && rule.resources == piece.resources
        });
        match same {
            Some(rule) => rule.verbs.extend(piece.verbs.iter().cloned()),
            None => merged.push(piece.clone()),
        }
    }
    merged.iter().map(line).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("\n")
}

fn line(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", list(rule.api_groups.as_ref())),
        ("Resources", list(rule.resources.as_ref())),
        ("NonResourceURLs", list(rule.non_resource_urls.as_ref())),
        ("ResourceNames", list(rule.resource_names.as_ref())),
        ("Verbs", &rule.verbs),
    ];
    let parts = parts.iter().filter(|(_, texts)| !texts.is_empty());
    let parts: Vec<String> = parts.map(|(name, texts)| format!("{name}:{}", quoted(texts))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// `["a" "b"]`
pub fn quoted(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `VERBS GROUPS RESOURCES [NAMES]`, commas within, `-` for the core group; URLs where GROUPS is `url`.
    fn rule(text: &str) -> PolicyRule {
        let words: Vec<&str> = text.split(' ').collect();
        let texts = |text: &str| -> Vec<String> {
            text.split(',').map(|text| if text == "-" { String::new() } else { text.into() }).collect()
        };
        let verbs = texts(words[0]);
        if words[1] == "url" {
            return PolicyRule { verbs, non_resource_urls: Some(texts(words[2])), ..PolicyRule::default() };
        }
        PolicyRule {
            verbs,
            api_groups: Some(texts(words[1])),
            resources: Some(texts(words[2])),
            resource_names: words.get(3).map(|names| texts(names)),
            non_resource_urls: None,
        }
    }

    /// `VERB GROUP RESOURCE[/SUBRESOURCE] [NAME]`, or `VERB url PATH`.
    fn allows(policy: &str, asked: &str) -> bool {
        let words: Vec<&str> = asked.split(' ').collect();
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        let asked = if words[1] == "url" {
            Attributes { verb: words[0], path: words[2], ..Attributes::default() }
        } else {
            let group = if words[1] == "-" { "" } else { words[1] };
            let name = words.get(3).copied().unwrap_or_default();
            Attributes { verb: words[0], group, resource, subresource, name, ..Attributes::default() }
        };
        Rule::new(rule(policy)).allows(&asked)
    }

    #[test]
    fn a_rule_allows_what_it_names() {
        let cases = [
            ("get,list - pods", "get - pods web", true),
            ("get,list - pods", "watch - pods", false),
            ("get - pods", "get apps pods", false),
            ("get - pods", "get - pods/log web", false),
            ("get - pods/log", "get - pods/log web", true),
            ("get - pods/log", "get - pods web", false),
            ("get - *", "get - pods/log web", true),
            ("get - */log", "get - pods/log web", true),
            ("get - */log", "get - pods web", false),
            ("get - */scale", "get - pods/log web", false),
            ("* * *", "impersonate - users jane", true),
            ("impersonate - users jane", "impersonate - users jane", true),
            ("impersonate - users jane", "impersonate - users joe", false),
            ("get - pods web", "list - pods", false),
            ("list - pods web", "list - pods", false),
            ("list - pods web", "list - pods web", true),
            ("create - pods web", "create - pods", false),
            ("get,approve x signers a.b/c", "approve x signers a.b/c", true),
            ("get url /metrics", "get url /metrics", true),
            ("get url /metrics", "post url /metrics", false),
            ("get url /api/*", "get url /api/v1", true),
            ("get url /api/*", "get url /api", false),
            ("* url *", "get url /anything", true),
            ("* * *", "get url /metrics", false),
            ("* url *", "get - pods", false),
        ];
        for (policy, asked, expected) in cases {
            assert_eq!(allows(policy, asked), expected, "{policy} | {asked}");
        }
    }

    #[test]
    fn what_is_not_held_is_missing() {
        let cases: [(&[&str], &str, &str); 13] = [
            (&["* * *"], "get,list - pods,secrets", ""),
            (&["get - pods"], "get - pods", ""),
            (&["get - pods", "list - pods"], "get,list - pods", ""),
            (&["get - pods"], "get,list - pods", r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#),
            (&[], "get,list - pods", r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#),
            (&["get - pods"], "get - pods web", ""),
            (&["get - pods web"], "get - pods", r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#),
            (
                &["get - pods web"],
                "get - pods web,db",
                r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["db"], Verbs:["get"]}"#,
            ),
            (&["get - */log"], "get - pods/log", ""),
            (&["get - *"], "get - *", ""),
            (&["get - pods"], "get - *", r#"{APIGroups:[""], Resources:["*"], Verbs:["get"]}"#),
            (&["get url /a/*"], "get url /a/b", ""),
            (&["get url /a"], "get url /b", r#"{NonResourceURLs:["/b"], Verbs:["get"]}"#),
        ];
        for (held, wanted, expected) in cases {
            let held: Vec<PolicyRule> = held.iter().map(|text| rule(text)).collect();
            assert_eq!(describe(&missing(held.iter(), &[rule(wanted)])), expected, "{held:?} | {wanted}");
        }
    }
}
