//! The paths of subresources that lead to somebody else: exec, attach, portforward, proxy. What may be sent there is
//! not ours to say; that they exist, and by which methods, is.

use serde_json::{Map, Value, json};

use super::{
    names,
    operations::{Writer, capital},
    parameters::Parameter,
};

const STREAM_METHODS: [&str; 2] = ["get", "post"];
const PROXY_METHODS: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];

const CONTAINER: Parameter = ("container", "string", "The container; the only one where there is one.");
const STDIN: Parameter = ("stdin", "boolean", "Whether the client sends standard input.");
const STDOUT: Parameter = ("stdout", "boolean", "Whether the client takes standard output.");
const STDERR: Parameter = ("stderr", "boolean", "Whether the client takes standard error.");
const TTY: Parameter = ("tty", "boolean", "Whether a terminal is asked for.");
const COMMAND: Parameter = ("command", "string", "The program and its arguments, one each.");
const PORTS: Parameter = ("ports", "integer", "The ports to forward (WebSocket only).");
const PATH: Parameter = ("path", "string", "The path of the request that is passed on.");

/// Whether a subresource is one of these.
pub(super) fn is_connection(subresource: &str) -> bool {
    !parameters(subresource).is_empty()
}

fn parameters(subresource: &str) -> &'static [Parameter] {
    match subresource {
        "exec" => &[COMMAND, CONTAINER, STDERR, STDIN, STDOUT, TTY],
        "attach" => &[CONTAINER, STDERR, STDIN, STDOUT, TTY],
        "portforward" => &[PORTS],
        "proxy" => &[PATH],
        _ => &[],
    }
}

/// Path and path item of a subresource below `item`.
pub(super) fn paths(writer: &Writer<'_>, item: &str, subresource: &str) -> Vec<(String, Value)> {
    let path = format!("{item}/{subresource}");
    if subresource != "proxy" {
        return vec![(path, path_item(writer, subresource, &STREAM_METHODS, false))];
    }
    let below = format!("{path}/{{path}}");
    vec![
        (path, path_item(writer, subresource, &PROXY_METHODS, false)),
        (below, path_item(writer, subresource, &PROXY_METHODS, true)),
    ]
}

fn path_item(writer: &Writer<'_>, subresource: &str, methods: &[&str], has_path: bool) -> Value {
    let info = writer.resource.info;
    let scope = if info.namespaced { "Namespaced" } else { "" };
    let name = if subresource == "portforward" { "Portforward".into() } else { capital(subresource) };
    let options = if subresource == "portforward" { "PortForward".into() } else { name.clone() };
    let mut item = Map::new();
    for method in methods {
        let suffix = if has_path { "WithPath" } else { "" };
        let rest = format!("{}{scope}{}{name}{suffix}", capital(method), info.kind);
        let mut operation = json!({
            "operationId": names::operation_id(info, "connect", &rest),
            "description": format!("connect {} requests to {subresource} of {}", method.to_uppercase(), info.kind),
            "tags": [names::tag(info)],
            "x-kubernetes-action": "connect",
            "x-kubernetes-group-version-kind":
                { "group": "", "version": "v1", "kind": format!("{}{options}Options", info.kind) },
        });
        writer.set_text_answer(&mut operation);
        item.insert((*method).into(), operation);
    }
    let mut parameters = writer.path_parameters(info.namespaced, true);
    if let Some(list) = parameters.as_array_mut() {
        if has_path {
            list.push(writer.path_parameter("path", "path to the resource"));
        }
        list.extend(self::parameters(subresource).iter().map(|of| writer.parameter(of)));
    }
    item.insert("parameters".into(), parameters);
    item.into()
}
