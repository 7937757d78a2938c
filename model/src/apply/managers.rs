//! Who owns which fields of an object: `metadata.managedFields`.

use std::{collections::BTreeMap, fmt, sync::LazyLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Element, Fields, ObjectType, Tree, compare::Comparison, tree};

/// How many managers of plain updates are told apart; the oldest of more are put together.
const MAX_UPDATE_MANAGERS: usize = 10;
const OLD_UPDATES: &str = "ancient-changes";
/// Owns what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager whose conflicts with its own client-side past are no conflicts.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const FIELDS_V1: &str = "FieldsV1";

/// How a manager came to its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    Apply,
    Update,
}

/// One manager and its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    api_version: String,
    fields_type: String,
    #[serde(default)]
    fields_v1: Fields,
    #[serde(default)]
    manager: String,
    operation: Operation,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subresource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

/// Who writes now.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager's name.
    pub manager: &'a str,
    pub api_version: &'a str,
    /// "" for the object as a whole.
    pub subresource: &'a str,
    /// RFC 3339, in seconds.
    pub time: &'a str,
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ManagedFields(Vec<Entry>);

/// A field that an applied configuration would change and another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// As messages show the other: `"x" with subresource "status" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`
    pub field: String,
    path: Vec<Element>,
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The configuration does not fit its type; the text says where.
    #[error("{0}")]
    Misfit(String),
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
}

/// What nobody owns.
static UNOWNED: LazyLock<Fields> = LazyLock::new(|| {
    Fields::of_paths([
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

impl ManagedFields {
    /// Reads `metadata.managedFields`. `None` where it is not as the server writes it.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let managers: Self = serde_json::from_slice(json).ok()?;
        let is_known = |entry: &Entry| entry.fields_type == FIELDS_V1 && !entry.api_version.is_empty();
        managers.0.iter().all(is_known).then_some(managers)
    }

    /// `metadata.managedFields` as JSON; `None` where there is no manager.
    pub fn to_json(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        Some(serde_json::to_string(self).expect("names and texts serialize"))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the same managers own the same, whenever that was.
    pub fn is_same_but_for_times(&self, other: &Self) -> bool {
        let is_same =
            |left: &Entry, right: &Entry| left.is_of_same(right) && left.fields_v1 == right.fields_v1;
        self.0.len() == other.0.len()
            && self.0.iter().all(|left| other.0.iter().any(|right| is_same(left, right)))
    }

    /// Takes note of a plain write: what it adds or changes is the writer's from now on. `old` is `None` for a new
    /// object; `ignored` is what this kind of write cannot change.
    pub fn update(
        &mut self,
        kind: &ObjectType,
        old: Option<&Tree<'_>>,
        new: &Tree<'_>,
        writer: Writer<'_>,
        ignored: &Fields,
    ) {
        let mut changes = kind.compare(old.unwrap_or(&tree::EMPTY), new);
        changes.subtract_whole(ignored);
        let Comparison { added, modified, removed } = changes;
        let mut taken = added;
        taken.add(modified);
        for entry in &mut self.0 {
            entry.fields_v1.subtract(&taken);
            entry.fields_v1.subtract(&removed);
        }
        taken.subtract(&UNOWNED);
        if !taken.is_empty() {
            let mine = Entry::new(writer, Operation::Update, taken);
            match self.0.iter_mut().find(|entry| entry.is_of_same(&mine)) {
                Some(entry) => {
                    entry.fields_v1.add(mine.fields_v1);
                    entry.time = mine.time;
                }
                None => self.0.push(mine),
            }
        }
        self.0.retain(|entry| !entry.fields_v1.is_empty());
        self.cap();
        self.sort();
    }

    /// Merges `config` into `live` (`None` for a new object) and answers the result. With `force`, fields of others
    /// that the configuration changes are taken from them. On an error, `self` is no longer of use.
    pub fn apply(
        &mut self,
        kind: &ObjectType,
        live: Option<&Value>,
        config: &Value,
        writer: Writer<'_>,
        ignored: &Fields,
        force: bool,
    ) -> Result<Value, ApplyError> {
        kind.validate(config).map_err(ApplyError::Misfit)?;
        let nothing = Value::Object(serde_json::Map::new());
        let live = live.unwrap_or(&nothing);
        let live_tree = Tree::from(live);
        if self.is_empty() {
            let before = Writer { manager: BEFORE_FIRST_APPLY, ..writer };
            self.update(kind, None, &live_tree, before, ignored);
        }
        let mut fields = kind.fields_of(&Tree::from(config));
        fields.subtract_whole(ignored);
        let mut mine = Entry::new(writer, Operation::Apply, fields);
        let last = self.0.iter().position(|entry| entry.is_of_same(&mine)).map(|at| self.0.remove(at));

        let mut merged = kind.merge(live.clone(), config);
        if let Some(last) = &last {
            let mut owned = mine.fields_v1.clone();
            self.0.iter().for_each(|entry| owned.add(entry.fields_v1.clone()));
            merged = kind.prune(merged, &last.fields_v1, &owned);
        }
        let mut changes = kind.compare(&live_tree, &Tree::from(&merged));
        changes.subtract_whole(ignored);
        let Comparison { added, modified, removed } = changes;
        let mut changed = added;
        changed.add(modified);
        if !force {
            self.refuse_conflicts(kind, &live_tree, &changed, writer)?;
        }
        for entry in &mut self.0 {
            entry.fields_v1.subtract(&changed);
            entry.fields_v1.subtract(&removed);
        }
        if merged == *live
            && let Some(last) = last
        {
            mine.time = last.time;
        }
        mine.fields_v1.subtract(&UNOWNED);
        self.0.push(mine);
        self.0.retain(|entry| !entry.fields_v1.is_empty());
        self.sort();
        if writer.manager == KUBECTL {
            renew_last_applied(&mut merged, config);
        }
        Ok(merged)
    }

    fn refuse_conflicts(
        &self,
        kind: &ObjectType,
        live: &Tree<'_>,
        changed: &Fields,
        writer: Writer<'_>,
    ) -> Result<(), ApplyError> {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by(|left, right| left.manager.cmp(&right.manager));
        let mut conflicts: Vec<Conflict> = Vec::new();
        for entry in entries {
            let common = entry.fields_v1.intersection(changed);
            conflicts.extend(common.paths().into_iter().map(|path| Conflict {
                manager: entry.to_string(),
                field: path.iter().map(ToString::to_string).collect(),
                path,
            }));
        }
        if writer.manager == KUBECTL && !conflicts.is_empty() {
            let allowed = last_applied(kind, live, writer.api_version).unwrap_or_default();
            conflicts.retain(|conflict| !allowed.has(&conflict.path));
        }
        if conflicts.is_empty() { Ok(()) } else { Err(ApplyError::Conflicts(conflicts)) }
    }

    /// Puts the oldest updates of each version together until few enough are left.
    fn cap(&mut self) {
        let is_update = |entry: &&Entry| entry.operation == Operation::Update;
        let mut excess = self.0.iter().filter(is_update).count().saturating_sub(MAX_UPDATE_MANAGERS);
        if excess == 0 {
            return;
        }
        let (mut updates, applies): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(|entry| is_update(&entry));
        updates.sort_by(|left, right| (&left.time, &left.manager).cmp(&(&right.time, &right.manager)));
        let mut oldest: BTreeMap<String, usize> = BTreeMap::new();
        let mut kept: Vec<Entry> = applies;
        for entry in updates {
            match oldest.get(&entry.api_version) {
                Some(&at) if excess > 0 => {
                    let bucket = &mut kept[at];
                    bucket.manager = OLD_UPDATES.into();
                    bucket.subresource.clear();
                    bucket.fields_v1.add(entry.fields_v1);
                    bucket.time = entry.time;
                    excess -= 1;
                }
                _ => {
                    oldest.entry(entry.api_version.clone()).or_insert(kept.len());
                    kept.push(entry);
                }
            }
        }
        self.0 = kept;
    }

    fn sort(&mut self) {
        let order = |entry: &Entry| {
            let Entry { operation, time, manager, api_version, subresource, .. } = entry;
            (*operation, time.clone(), manager.clone(), api_version.clone(), subresource.clone())
        };
        if !self.0.is_sorted_by_key(order) {
            self.0.sort_by_cached_key(order);
        }
    }
}

impl Entry {
    fn new(writer: Writer<'_>, operation: Operation, fields_v1: Fields) -> Self {
        Self {
            api_version: writer.api_version.into(),
            fields_type: FIELDS_V1.into(),
            fields_v1,
            manager: writer.manager.into(),
            operation,
            subresource: writer.subresource.into(),
            time: Some(writer.time.into()),
        }
    }

    /// Whether both are of one manager. An applier is one in whatever version it applies.
    fn is_of_same(&self, other: &Self) -> bool {
        let is_same_version = self.operation == Operation::Apply || self.api_version == other.api_version;
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && is_same_version
    }
}

/// The manager as messages name it.
impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(formatter, " with subresource {:?}", self.subresource)?;
        }
        match self.operation {
            Operation::Update => write!(formatter, " using {}", self.api_version),
            Operation::Apply => Ok(()),
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [Conflict { manager, field, .. }] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {manager}: {field}");
    }
    let mut lines = Vec::new();
    for managers in conflicts.chunk_by(|left, right| left.manager == right.manager) {
        lines.push(format!("conflicts with {}:", managers[0].manager));
        lines.extend(managers.iter().map(|conflict| format!("- {}", conflict.field)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// The fields that `kubectl apply` set when it still applied on the client's side, and that are as it set them.
fn last_applied(kind: &ObjectType, live: &Tree<'_>, api_version: &str) -> Option<Fields> {
    let Tree::String(text) = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)? else {
        return None;
    };
    let config: Value = serde_json::from_str(text).ok()?;
    if config["apiVersion"] != api_version || kind.validate(&config).is_err() {
        return None;
    }
    let config = Tree::from(&config);
    let mut fields = kind.fields_of(&config);
    let changes = kind.compare(&config, live);
    for changed in [&changes.added, &changes.modified, &changes.removed] {
        fields.subtract(changed);
    }
    Some(fields)
}

/// Keeps the annotation of client-side apply, where there is one, in step, so that a client may still go back.
fn renew_last_applied(object: &mut Value, config: &Value) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let Some(annotation) = annotations.and_then(|annotations| annotations.get_mut(LAST_APPLIED)) else {
        return;
    };
    if annotation.as_str().is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    *annotation = format!("{config}\n").into();
}
