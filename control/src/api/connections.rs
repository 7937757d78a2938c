//! What connections ask for, as admission is asked about them and may change it: `PodExecOptions` and its kin.

use std::ops::Not;

use serde::{Deserialize, Serialize};

use super::query::Query;
use crate::{
    ApiError,
    admission::matching::Operation,
    registry::{Call, Registry},
};

/// The options of a connection; those of other connections than its own are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    pub api_version: String,
    pub kind: String,
    #[serde(skip_serializing_if = "Not::not")]
    pub stdin: bool,
    #[serde(skip_serializing_if = "Not::not")]
    pub stdout: bool,
    #[serde(skip_serializing_if = "Not::not")]
    pub stderr: bool,
    #[serde(skip_serializing_if = "Not::not")]
    pub tty: bool,
    /// "" for the pod's only one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// What follows `proxy`, with its slash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// Asks whether a connection to `subresource` may be made, and answers what it is to be; `path` is what follows
/// `proxy`.
pub async fn admit(
    registry: &Registry,
    call: &Call<'_>,
    subresource: &str,
    query: &Query<'_>,
    path: &str,
) -> Result<Options, ApiError> {
    let options = Options::new(call.served.info.kind, subresource, query, path);
    registry.admit_message(call, (Operation::Connect, subresource), options, |_| Ok(())).await
}

impl Options {
    fn new(kind: &str, subresource: &str, query: &Query<'_>, path: &str) -> Self {
        let of = match subresource {
            "exec" => "Exec",
            "attach" => "Attach",
            "portforward" => "PortForward",
            _ => "Proxy",
        };
        let options =
            Self { api_version: "v1".into(), kind: format!("{kind}{of}Options"), ..Self::default() };
        match of {
            "Proxy" => Self { path: path.into(), ..options },
            "PortForward" => {
                let ports = query.all("ports").flat_map(|ports| ports.split(','));
                Self { ports: ports.filter_map(|port| port.parse().ok()).collect(), ..options }
            }
            _ => Self {
                stdin: query.flag("stdin"),
                stdout: query.flag("stdout"),
                stderr: query.flag("stderr"),
                tty: query.flag("tty"),
                container: query.text("container").into(),
                command: if of == "Exec" {
                    query.all("command").map(Into::into).collect()
                } else {
                    Vec::new()
                },
                ..options
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_those_of_the_connection() {
        let query = Query::parse(Some(
            "command=sh&command=-c&stdin=true&tty=false&container=web&ports=80&ports=81,82",
        ));
        let options = |subresource: &str| json!(Options::new("Pod", subresource, &query, "/x"));
        assert_eq!(
            options("exec"),
            json!({ "apiVersion": "v1", "kind": "PodExecOptions", "stdin": true, "container": "web", "command": ["sh", "-c"] })
        );
        assert_eq!(
            options("attach"),
            json!({ "apiVersion": "v1", "kind": "PodAttachOptions", "stdin": true, "container": "web" })
        );
        assert_eq!(
            options("portforward"),
            json!({ "apiVersion": "v1", "kind": "PodPortForwardOptions", "ports": [80, 81, 82] })
        );
        assert_eq!(options("proxy"), json!({ "apiVersion": "v1", "kind": "PodProxyOptions", "path": "/x" }));
    }
}
