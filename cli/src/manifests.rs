//! `naru up -f`: applies manifests to the cluster that just came up.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, bail};
use kube::{
    Api, Client, Discovery, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::Scope,
};
use serde::Deserialize as _;

/// Creates the objects of a file (or of standard input for `-`), or merges them into those that exist.
pub async fn apply(client: &Client, file: &Path) -> anyhow::Result<()> {
    let text = read(file)?;
    let objects = parse(&text).with_context(|| format!("{} is not a manifest", file.display()))?;
    let discovery = Discovery::new(client.clone()).run().await.context("cannot read what the API serves")?;
    for object in objects {
        apply_one(client, &discovery, &object).await?;
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}

/// The objects of a YAML stream; empty documents are skipped, lists are opened.
fn parse(text: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document)?;
        match value.get("items") {
            _ if value.is_null() => {}
            Some(serde_json::Value::Array(items)) => {
                for item in items {
                    objects.push(serde_json::from_value(item.clone())?);
                }
            }
            _ => objects.push(serde_json::from_value(value)?),
        }
    }
    Ok(objects)
}

async fn apply_one(client: &Client, discovery: &Discovery, object: &DynamicObject) -> anyhow::Result<()> {
    let Some(types) = &object.types else { bail!("an object has no kind") };
    let what = format!("{} {}", types.kind.to_lowercase(), object.name_any());
    let kind = GroupVersionKind::try_from(types).with_context(|| format!("{what}: bad apiVersion"))?;
    let (resource, capabilities) = discovery
        .resolve_gvk(&kind)
        .with_context(|| format!("{what}: the API does not serve {} {}", types.api_version, types.kind))?;
    let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
        Api::namespaced_with(client.clone(), object.namespace().as_deref().unwrap_or("default"), &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let patch = Patch::Merge(object);
            api.patch(&object.name_any(), &PatchParams::default(), &patch).await.map(|_| ())
        }
        Err(error) => Err(error),
    }
    .with_context(|| format!("cannot apply {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_documents_is_read_whole() {
        let objects = parse(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- \
             {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n",
        )
        .unwrap();
        assert_eq!(objects.iter().map(|object| object.name_any()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn malformed_yaml_is_refused() {
        assert!(parse("kind: [").is_err());
    }
}
