//! `naru image`: the cluster's image store, over the API server's port.

use std::path::Path;

use anyhow::{Context as _, bail};
use http::Request;
use serde::Deserialize;

use crate::{
    args::{ImageArgs, ImageCommand},
    cluster,
};

/// One image, as the store lists it.
#[derive(Debug, Deserialize, serde::Serialize)]
struct StoredImage {
    name: String,
    digest: String,
    size: u64,
    #[serde(default)]
    created: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StoredImages {
    items: Vec<StoredImage>,
}

pub async fn run(args: ImageArgs) -> anyhow::Result<()> {
    // What can be said without a cluster comes before the search for one.
    let upload = match &args.command {
        ImageCommand::Import { file, .. } => Some(read_wasm(file)?),
        _ => None,
    };
    let client = cluster::client(args.kubeconfig.as_deref()).await?;
    match args.command {
        ImageCommand::Import { file, name } => {
            let name = name.map_or_else(|| name_of(&file), Ok)?;
            import(&client, &name, upload.unwrap_or_default()).await
        }
        ImageCommand::Ls { json } => list(&client, json).await,
        ImageCommand::Rm { names } => remove(&client, &names).await,
    }
}

fn read_wasm(file: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if !bytes.starts_with(b"\0asm") {
        bail!("{} is not a WebAssembly file: it does not start with \\0asm", file.display());
    }
    Ok(bytes)
}

fn name_of(file: &Path) -> anyhow::Result<String> {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    stem.map(str::to_owned)
        .with_context(|| format!("{} has no name to go by; say --name NAME", file.display()))
}

async fn import(client: &kube::Client, name: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
    let request =
        Request::put(path(&[("name", name)])).header("content-type", "application/wasm").body(bytes)?;
    let image: StoredImage =
        client.request(request).await.with_context(|| format!("cannot import image {name}"))?;
    println!("imported {} ({}, {})", image.name, image.digest, human_size(image.size));
    Ok(())
}

async fn list(client: &kube::Client, json: bool) -> anyhow::Result<()> {
    let images: StoredImages = client
        .request(Request::get("/naru/v1/images").body(Vec::new())?)
        .await
        .context("cannot list images")?;
    if json {
        println!("{}", serde_json::to_string_pretty(&images.items)?);
        return Ok(());
    }
    let width = images.items.iter().map(|image| image.name.len()).max().unwrap_or(0).max(4);
    println!("{:width$}  {:19}  {:>9}  CREATED", "NAME", "DIGEST", "SIZE");
    for image in &images.items {
        let digest: String = image.digest.chars().take(19).collect();
        let created = image.created.as_deref().unwrap_or("-");
        println!("{:width$}  {digest:19}  {:>9}  {created}", image.name, human_size(image.size));
    }
    Ok(())
}

async fn remove(client: &kube::Client, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let request = Request::delete(path(&[("name", name)])).body(Vec::new())?;
        client.request_text(request).await.with_context(|| format!("cannot remove image {name}"))?;
        println!("removed {name}");
    }
    Ok(())
}

fn path(query: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("/naru/v1/images?{query}")
}

/// `78.1 kB`: decimal units, one digit.
fn human_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "kB", "MB"] {
        if size < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1000.0;
    }
    format!("{size:.1} GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(human_size(12), "12 B");
        assert_eq!(human_size(78_123), "78.1 kB");
        assert_eq!(human_size(18_400_000), "18.4 MB");
    }

    #[test]
    fn a_name_travels_in_a_query_unharmed() {
        assert_eq!(path(&[("name", "a/b:v1&x=y")]), "/naru/v1/images?name=a%2Fb%3Av1%26x%3Dy");
    }
}
