//! `/healthz`, `/livez`, `/readyz` and `/version`.

use serde_json::{Value, json};

/// One thing that is checked, and why it fails if it does.
pub struct Check {
    pub name: &'static str,
    pub failure: Option<String>,
}

/// The answer to a health request.
#[derive(Debug, PartialEq, Eq)]
pub struct Health {
    pub is_healthy: bool,
    pub text: String,
}

/// Puts checks together for `endpoint` (`readyz`). `excluded` checks count as passed.
pub fn report(endpoint: &str, checks: &[Check], excluded: &[&str], verbose: bool) -> Health {
    let mut text = String::new();
    let mut is_healthy = true;
    for check in checks {
        let line = match &check.failure {
            _ if excluded.contains(&check.name) => format!("[+]{} excluded: ok\n", check.name),
            None => format!("[+]{} ok\n", check.name),
            Some(failure) => {
                is_healthy = false;
                format!("[-]{} failed: {failure}\n", check.name)
            }
        };
        text.push_str(&line);
    }
    if is_healthy && !verbose {
        return Health { is_healthy, text: "ok".into() };
    }
    text.extend([endpoint, " check ", if is_healthy { "passed" } else { "failed" }, "\n"]);
    Health { is_healthy, text }
}

/// A check of its own, as in `/readyz/store`; `None` where there is none of that name.
pub fn single(checks: &[Check], name: &str) -> Option<Health> {
    let check = checks.iter().find(|check| check.name == name)?;
    Some(match &check.failure {
        None => Health { is_healthy: true, text: "ok".into() },
        Some(failure) => Health { is_healthy: false, text: format!("internal server error: {failure}\n") },
    })
}

/// `/version`
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": naru_model::version::MINOR,
        "emulationMajor": "1",
        "emulationMinor": naru_model::version::MINOR,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": naru_model::version::MINOR,
        "gitVersion": naru_model::version::git_version(),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

/// The processor as Go names it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(failure: Option<&str>) -> [Check; 2] {
        [Check { name: "ping", failure: None }, Check { name: "store", failure: failure.map(str::to_owned) }]
    }

    #[test]
    fn health_is_one_word_unless_more_is_asked_for() {
        assert_eq!(report("readyz", &checks(None), &[], false).text, "ok");
        let verbose = report("readyz", &checks(None), &[], true);
        assert_eq!(verbose.text, "[+]ping ok\n[+]store ok\nreadyz check passed\n");
    }

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let failed = report("readyz", &checks(Some("no leader")), &[], false);
        assert_eq!(
            failed,
            Health {
                is_healthy: false,
                text: "[+]ping ok\n[-]store failed: no leader\nreadyz check failed\n".into()
            }
        );
        assert!(report("readyz", &checks(Some("no leader")), &["store"], false).is_healthy);
        assert_eq!(single(&checks(Some("no leader")), "store").map(|health| health.is_healthy), Some(false));
        assert_eq!(single(&checks(None), "nothing"), None);
    }
}
