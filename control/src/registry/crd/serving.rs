//! Keeps the list of served resources in step with the definitions.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use tokio_util::sync::CancellationToken;

use super::{
    CustomKind, RESOURCE,
    conversion::Conversion,
    custom::{CustomColumn, Identity, ScalePaths},
    info::Facts,
    is_true,
    jsonpath::JsonPath,
    rules::Rules,
    schema::Schema,
};
use crate::{
    registry::{Kinds, Registry, Served, podspec::OrEmpty as _},
    store::{Entry, Lagged, Revision, Scope, Store},
};

/// How long a failing watch is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves what definitions define, on one member.
pub struct Serving {
    registry: Registry,
    builtin: Arc<Kinds>,
    known: HashMap<String, Known>,
}

/// What one definition brought.
struct Known {
    aspect: Aspect,
    served: Vec<Arc<Served>>,
}

/// All of a definition that decides how its objects are served.
#[derive(PartialEq)]
struct Aspect {
    uid: String,
    generation: Option<i64>,
    is_terminating: bool,
    names: String,
    stored_versions: Vec<String>,
}

impl Serving {
    pub fn new(registry: Registry) -> Self {
        let builtin = registry.kinds().clone();
        Self { registry, builtin, known: HashMap::new() }
    }

    /// Follows the definitions until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let seen = self.refresh();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed(seen) => (),
            }
        }
    }

    /// Waits for a change of any definition after `seen`.
    async fn changed(&self, seen: Revision) {
        match self.registry.store().watch(Scope::all(RESOURCE), seen) {
            Ok(mut watch) => match watch.next().await {
                Ok(_) | Err(Lagged) => (),
            },
            Err(error) => {
                tracing::warn!(%error, "the definitions of custom resources cannot be watched; it tries again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Serves what the definitions of this moment say; answers the revision that was looked at.
    pub fn refresh(&mut self) -> Revision {
        let view = self.registry.store().snapshot();
        let mut known = HashMap::new();
        let mut fresh = Vec::new();
        for entry in view.range(&Scope::all(RESOURCE), None) {
            let definition = match entry.typed::<CustomResourceDefinition>() {
                Ok(definition) if is_true(&definition, "Established") => definition,
                Ok(_) => continue,
                Err(error) => {
                    tracing::error!(key = entry.key.as_str(), %error, "a definition does not decode");
                    continue;
                }
            };
            let aspect = Aspect::of(&definition);
            let name = entry.meta.name.clone();
            match self.known.remove(&name) {
                Some(same) if same.aspect == aspect => drop(known.insert(name, same)),
                _ => {
                    let (kinds, served) = serve(&definition, &entry, self.registry.store());
                    fresh.extend(kinds);
                    known.insert(name, Known { aspect, served });
                }
            }
        }
        let has_changed = !fresh.is_empty() || !self.known.is_empty();
        self.known = known;
        if has_changed {
            let mut kinds = Kinds::clone(&self.builtin);
            let mut names: Vec<&String> = self.known.keys().collect();
            names.sort();
            for name in names {
                // What is built in is not replaced by what somebody defines.
                let defined = self.known[name].served.iter();
                let allowed =
                    defined.filter(|of| !self.builtin.has_group_version(of.info.group, of.info.version));
                allowed.for_each(|served| kinds.insert(served.clone()));
            }
            self.registry.serve(kinds);
            let now = self.registry.store().snapshot().revision();
            for kind in &fresh {
                kind.begin(now);
            }
        }
        view.revision()
    }
}

impl Aspect {
    fn of(definition: &CustomResourceDefinition) -> Self {
        let status = definition.status.as_ref();
        let names = status.and_then(|status| status.accepted_names.as_ref());
        Self {
            uid: definition.metadata.uid.or_empty().into(),
            generation: definition.metadata.generation,
            is_terminating: definition.metadata.deletion_timestamp.is_some(),
            names: serde_json::to_string(&names).unwrap_or_default(),
            stored_versions: status.and_then(|status| status.stored_versions.clone()).unwrap_or_default(),
        }
    }
}

/// The resources of a definition's served versions; the version that objects are stored in is last.
fn serve(
    definition: &CustomResourceDefinition,
    entry: &Entry,
    store: &Store,
) -> (Vec<Arc<CustomKind>>, Vec<Arc<Served>>) {
    let mut versions: Vec<_> = definition.spec.versions.iter().filter(|version| version.served).collect();
    versions.sort_by_key(|version| version.storage);
    let of = format!("{}, Kind={}", definition.spec.group, definition.spec.names.kind);
    let conversion = Arc::new(Conversion::new(definition.spec.conversion.as_ref(), of, store));
    let mut kinds = Vec::new();
    let mut served = Vec::new();
    for version in versions {
        match kind(definition, version, entry, conversion.clone()) {
            Ok(kind) => {
                let kind = Arc::new(kind);
                let names = &definition.spec.names;
                let list_kind = names.list_kind.clone().unwrap_or_else(|| format!("{}List", names.kind));
                served.push(Arc::new(Served::custom(kind.clone(), kind.type_name.clone(), list_kind)));
                kinds.push(kind);
            }
            Err(problem) => {
                tracing::error!(
                    definition = entry.meta.name,
                    version = version.name,
                    problem,
                    "a custom resource cannot be served"
                );
            }
        }
    }
    (kinds, served)
}

fn kind(
    definition: &CustomResourceDefinition,
    version: &CustomResourceDefinitionVersion,
    entry: &Entry,
    conversion: Arc<Conversion>,
) -> Result<CustomKind, String> {
    let spec = &definition.spec;
    let names =
        definition.status.as_ref().and_then(|status| status.accepted_names.as_ref()).unwrap_or(&spec.names);
    let props = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.clone());
    let props = props.ok_or("it has no schema")?;
    let storage =
        spec.versions.iter().find(|version| version.storage).ok_or("no version is the storage version")?;
    let subresources = version.subresources.as_ref();
    let has_status = subresources.is_some_and(|of| of.status.is_some());
    let scale = subresources.and_then(|of| of.scale.as_ref());
    let info = Facts {
        group: &spec.group,
        version: &version.name,
        names,
        is_namespaced: spec.scope == "Namespaced",
        subresources: match (has_status, scale.is_some()) {
            (false, false) => &[],
            (true, false) => &["status"],
            (false, true) => &["scale"],
            (true, true) => &["status", "scale"],
        },
        is_terminating: definition.metadata.deletion_timestamp.is_some(),
    };
    let api_version = format!("{}/{}", spec.group, version.name);
    let columns = match version.additional_printer_columns.as_deref() {
        None | Some([]) => vec![age()?],
        Some(columns) => columns.iter().map(column).collect::<Result<_, _>>()?,
    };
    let fields = |text: &str| -> Result<Vec<String>, String> {
        let path = JsonPath::parse(text)?;
        let fields = path.fields().ok_or("a scale's path has more than names")?;
        Ok(fields.into_iter().map(str::to_owned).collect())
    };
    let scale = scale.map(|scale| -> Result<ScalePaths, String> {
        Ok(ScalePaths {
            spec_replicas: fields(&scale.spec_replicas_path)?,
            status_replicas: fields(&scale.status_replicas_path)?,
            selector: scale
                .label_selector_path
                .as_deref()
                .filter(|path| !path.is_empty())
                .map(fields)
                .transpose()?,
        })
    });
    let selectable = version.selectable_fields.iter().flatten().map(|field| {
        Ok((field.json_path.trim_start_matches('.').to_owned(), JsonPath::parse(&field.json_path)?))
    });
    let deprecation = (version.deprecated == Some(true)).then(|| {
        version
            .deprecation_warning
            .clone()
            .unwrap_or_else(|| format!("{api_version} {} is deprecated", names.kind))
    });
    let schema = Schema::build(&props)?;
    let has_one_form = spec.versions.len() == 1 && definition.metadata.generation == Some(1);
    Ok(CustomKind {
        info: info.keep(),
        type_name: type_name(&spec.group, &version.name, &names.kind),
        rules: Rules::compile(&schema),
        schema,
        props,
        has_status,
        scale: scale.transpose()?,
        columns,
        selectable: selectable.collect::<Result<_, String>>()?,
        deprecation,
        is_uniform: has_one_form,
        since: AtomicU64::new(if has_one_form { entry.revision.0 } else { u64::MAX }),
        identity: Arc::new(Identity {
            kind: names.kind.clone(),
            stored_as: format!("{}/{}", spec.group, storage.name),
            conversion,
            api_version,
        }),
    })
}

/// `com.example.v1.Widget`
fn type_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

fn age() -> Result<CustomColumn, String> {
    column(&CustomResourceColumnDefinition {
        name: "Age".into(),
        type_: "date".into(),
        json_path: ".metadata.creationTimestamp".into(),
        description: Some(crate::registry::text::AGE.description.into()),
        ..CustomResourceColumnDefinition::default()
    })
}

fn column(of: &CustomResourceColumnDefinition) -> Result<CustomColumn, String> {
    let told = of.description.clone().filter(|text| !text.is_empty());
    Ok(CustomColumn {
        name: of.name.clone(),
        kind: of.type_.clone(),
        format: of.format.clone().unwrap_or_default(),
        priority: of.priority.unwrap_or(0),
        description: told.unwrap_or_else(|| {
            format!("Custom resource definition column (in JSONPath format): {}", of.json_path)
        }),
        path: JsonPath::parse(&of.json_path)?,
    })
}
