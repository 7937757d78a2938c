//! The query parameters of operations.

/// Name, type and description of a query parameter.
pub(super) type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = ("dryRun", "string", "'All': everything is done but the change is not kept.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "The name of the actor that makes the change.");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.");

/// What may be asked along with an action on a resource or on its subresource.
pub(super) fn of(action: &str, subresource: &str) -> Vec<Parameter> {
    let delete: [Parameter; 3] = [
        ("gracePeriodSeconds", "integer", "Seconds before the object is deleted; 0 deletes it at once."),
        ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
        ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ];
    let list: [Parameter; 8] = [
        ("continue", "string", "Where an earlier list stopped, as it said itself."),
        ("fieldSelector", "string", "Restricts the objects by their fields."),
        ("labelSelector", "string", "Restricts the objects by their labels."),
        ("limit", "integer", "How many objects to answer at most; the rest follows by `continue`."),
        ("resourceVersion", "string", "How old the answer may be, or where a watch begins."),
        ("resourceVersionMatch", "string", "How resourceVersion is applied: NotOlderThan or Exact."),
        ("sendInitialEvents", "boolean", "Begins a watch with the objects that exist."),
        ("timeoutSeconds", "integer", "Ends the call after so long."),
    ];
    let mut parameters = vec![PRETTY];
    match action {
        "post" | "put" => parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]),
        "patch" => {
            parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]);
            parameters.push(("force", "boolean", "Takes fields from other managers (apply patches only)."));
        }
        "delete" => {
            parameters.push(DRY_RUN);
            parameters.extend(delete);
        }
        "deletecollection" => {
            parameters.push(DRY_RUN);
            parameters.extend(delete);
            parameters.extend(list);
        }
        "list" => {
            parameters.extend(list);
            parameters.extend([
                ("allowWatchBookmarks", "boolean", "Asks for BOOKMARK events."),
                ("watch", "boolean", "Answers changes as they happen, as a stream."),
            ]);
        }
        "get" if subresource == "log" => parameters.extend(LOG),
        _ => {}
    }
    parameters
}

const LOG: [Parameter; 9] = [
    ("container", "string", "The container; the only one where there is one."),
    ("follow", "boolean", "Goes on with what is written from now on."),
    ("insecureSkipTLSVerifyBackend", "boolean", "Whether the node may show any certificate."),
    ("limitBytes", "integer", "How many bytes to answer at most."),
    ("previous", "boolean", "Answers the log of the container's last run."),
    ("sinceSeconds", "integer", "How old, in seconds, the first line may be."),
    ("stream", "string", "Which output: All, Stdout or Stderr."),
    ("tailLines", "integer", "How many lines from the end to answer."),
    ("timestamps", "boolean", "Begins each line with its time."),
];
