//! What connections ask for, as admission is asked about them: `PodExecOptions` and its kin.

use serde_json::{Value, json};

use super::query::Query;
use crate::{
    ApiError,
    admission::matching::Operation,
    registry::{Call, Registry},
};

/// Asks whether a connection to `subresource` may be made; `path` is what follows `proxy`.
pub async fn admit(
    registry: &Registry,
    call: &Call<'_>,
    subresource: &str,
    query: &Query<'_>,
    path: &str,
) -> Result<(), ApiError> {
    let options = || options(call.served.info.kind, subresource, query, path);
    registry.admit_message(call, (Operation::Connect, subresource), options).await
}

fn options(kind: &str, subresource: &str, query: &Query<'_>, path: &str) -> Value {
    let of = match subresource {
        "exec" => "Exec",
        "attach" => "Attach",
        "portforward" => "PortForward",
        _ => "Proxy",
    };
    let mut options = json!({ "apiVersion": "v1", "kind": format!("{kind}{of}Options") });
    match of {
        "Proxy" => options["path"] = path.into(),
        "PortForward" => {
            let ports = query.all("ports").flat_map(|ports| ports.split(','));
            options["ports"] = ports.filter_map(|port| port.parse::<u16>().ok()).collect();
        }
        _ => {
            for flag in ["stdin", "stdout", "stderr", "tty"] {
                if query.flag(flag) {
                    options[flag] = true.into();
                }
            }
            if query.has("container") {
                options["container"] = query.text("container").into();
            }
            if of == "Exec" {
                options["command"] = query.all("command").collect();
            }
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_connection() {
        let query = Query::parse(Some(
            "command=sh&command=-c&stdin=true&tty=false&container=web&ports=80&ports=81,82",
        ));
        let options = |subresource: &str| options("Pod", subresource, &query, "/x");
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
