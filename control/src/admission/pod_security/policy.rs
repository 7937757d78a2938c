//! What a namespace's labels say about the pods in it.

use std::{collections::BTreeMap, fmt};

use naru_model::validation::{FieldErrors, Path};

/// What labels and annotations of audit events begin with.
pub(super) const LABEL: &str = "pod-security.kubernetes.io/";

/// In the order of strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// The minor version whose checks apply; [`Version::LATEST`] is newer than any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u32);

impl Version {
    pub const LATEST: Self = Self(u32::MAX);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::LATEST => write!(formatter, "{level}:latest"),
            Version(minor) => write!(formatter, "{level}:v1.{minor}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub enforce: Rule,
    pub audit: Rule,
    pub warn: Rule,
}

impl Policy {
    /// What the labels ask for, and what is wrong with them. An unreadable level to enforce is the strictest one, an
    /// unreadable one to warn of or to audit none; who says nothing of warnings is warned of what is enforced.
    pub fn of(labels: &BTreeMap<String, String>, errors: &mut FieldErrors) -> Self {
        let mut rule = |mode: &str, fallback: Level| {
            let level = labels.get(&format!("{LABEL}{mode}")).map(|text| match text.as_str() {
                "privileged" => Level::Privileged,
                "baseline" => Level::Baseline,
                "restricted" => Level::Restricted,
                _ => {
                    let path = Path::new("metadata").child("labels").key(&format!("{LABEL}{mode}"));
                    errors.invalid(&path, text.as_str(), "must be one of privileged, baseline, restricted");
                    fallback
                }
            });
            let version = labels.get(&format!("{LABEL}{mode}-version")).map(|text| {
                parse_version(text).unwrap_or_else(|| {
                    let path = Path::new("metadata").child("labels").key(&format!("{LABEL}{mode}-version"));
                    errors.invalid(&path, text.as_str(), "must be \"latest\" or \"v1.x\"");
                    Version::LATEST
                })
            });
            (level, version)
        };
        let (enforce, audit, warn) = (
            rule("enforce", Level::Restricted),
            rule("audit", Level::Privileged),
            rule("warn", Level::Privileged),
        );
        let of = |(level, version): (Option<Level>, Option<Version>)| Rule {
            level: level.unwrap_or(Level::Privileged),
            version: version.unwrap_or(Version::LATEST),
        };
        let enforced = of(enforce);
        let inherit = |(level, version): (Option<Level>, Option<Version>)| match (level, version) {
            (None, None) => enforced,
            given => of(given),
        };
        Self { enforce: enforced, audit: inherit(audit), warn: inherit(warn) }
    }

    pub fn allows_everything(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|rule| rule.level == Level::Privileged)
    }
}

fn parse_version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::LATEST);
    }
    let minor = text.strip_prefix("v1.")?;
    let is_canonical = minor == "0" || !minor.starts_with(['0', '+']);
    minor.parse().ok().filter(|_| is_canonical).map(Version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_kubernetes_reads_them() {
        let rule = |level, version| Rule { level, version };
        let restricted = rule(Level::Restricted, Version::LATEST);
        let cases: [(&[(&str, &str)], _, _, usize); 5] = [
            (&[], rule(Level::Privileged, Version::LATEST), rule(Level::Privileged, Version::LATEST), 0),
            (&[("enforce", "restricted")], restricted, restricted, 0),
            (
                &[("enforce", "baseline"), ("enforce-version", "v1.25"), ("warn", "restricted")],
                rule(Level::Baseline, Version(25)),
                restricted,
                0,
            ),
            (
                &[("enforce", "strict"), ("warn", "strict")],
                restricted,
                rule(Level::Privileged, Version::LATEST),
                2,
            ),
            (&[("enforce", "restricted"), ("enforce-version", "v1.025")], restricted, restricted, 1),
        ];
        for (labels, enforce, warn, wrong) in cases {
            let labels =
                labels.iter().map(|(key, value)| (format!("{LABEL}{key}"), (*value).to_owned())).collect();
            let mut errors = FieldErrors::default();
            let policy = Policy::of(&labels, &mut errors);
            assert_eq!((policy.enforce, policy.warn, errors.0.len()), (enforce, warn, wrong), "{labels:?}");
        }
    }

    #[test]
    fn rules_print_as_their_labels_say() {
        assert_eq!(
            Rule { level: Level::Restricted, version: Version::LATEST }.to_string(),
            "restricted:latest"
        );
        assert_eq!(Rule { level: Level::Baseline, version: Version(25) }.to_string(), "baseline:v1.25");
    }
}
