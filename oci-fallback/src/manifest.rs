//! What an OCI manifest says an image is: pure decisions, no network.

use oci_client::{
    config::ConfigFile,
    manifest::{ImageIndexEntry, OciDescriptor, OciImageManifest},
};

/// Config types of artifacts whose one layer is a wasm file: CNCF's, and the one before it.
const WASM_CONFIGS: [&str; 2] =
    ["application/vnd.wasm.config.v0+json", "application/vnd.wasm.config.v1+json"];
/// The layer types of such artifacts, likewise.
const WASM_LAYERS: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];
/// Config types of ordinary container images, whose layers are tar archives.
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// How to get at an image's wasm file.
#[derive(Debug)]
pub(crate) enum Plan {
    /// The layer is the file.
    Layer(OciDescriptor),
    /// A container image: its config decides, see [`wasm_platform`].
    Archive(Vec<OciDescriptor>),
    /// Something that no container can be made of.
    Unusable(String),
}

pub(crate) fn plan(manifest: &OciImageManifest) -> Plan {
    let config = manifest.config.media_type.as_str();
    let is_wasm = |layer: &&OciDescriptor| WASM_LAYERS.contains(&layer.media_type.as_str());
    let wasm_layers: Vec<_> = manifest.layers.iter().filter(is_wasm).collect();
    match wasm_layers.as_slice() {
        [layer] if WASM_CONFIGS.contains(&config) || manifest.layers.len() == 1 => {
            Plan::Layer((*layer).clone())
        }
        [] if IMAGE_CONFIGS.contains(&config) => Plan::Archive(manifest.layers.clone()),
        [] => Plan::Unusable(format!(
            "its config is of type {config} and it has no layer of type application/wasm"
        )),
        layers => Plan::Unusable(format!(
            "its config is of type {config} and it has {} layers, {} of them wasm: which one to run is not defined",
            manifest.layers.len(),
            layers.len()
        )),
    }
}

/// The entry of an index to take: wasm before Linux, because wasm runs everywhere.
pub(crate) fn choose(entries: &[ImageIndexEntry]) -> Option<&ImageIndexEntry> {
    let is_wasm = |entry: &&ImageIndexEntry| {
        entry.platform.as_ref().is_some_and(|platform| {
            is_wasm_platform(&platform.os.to_string(), &platform.architecture.to_string())
        })
    };
    entries.iter().find(is_wasm).or_else(|| entries.iter().find(|entry| entry.platform.is_none()))
}

pub(crate) fn is_wasm_platform(os: &str, architecture: &str) -> bool {
    matches!(os, "wasi" | "wasip1" | "wasip2" | "wasip3") || matches!(architecture, "wasm" | "wasm32")
}

/// What an image's config says about running it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RunConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
}

impl RunConfig {
    /// `None` when the config is of an image for Linux or another system.
    pub(crate) fn of_wasm_image(config: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let file: ConfigFile = serde_json::from_slice(config)?;
        if !is_wasm_platform(&file.os.to_string(), &file.architecture.to_string()) {
            return Ok(None);
        }
        let Some(config) = file.config else { return Ok(Some(Self::default())) };
        Ok(Some(Self {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            working_dir: config.working_dir.filter(|dir| !dir.is_empty()),
            user: config.user.filter(|user| !user.is_empty()),
        }))
    }

    /// The path of the program inside the image, as an archive spells it.
    pub(crate) fn program(&self) -> Option<String> {
        let program = self.entrypoint.first().or(self.cmd.first())?;
        let path = match &self.working_dir {
            Some(dir) if !program.starts_with('/') => format!("{dir}/{program}"),
            _ => program.clone(),
        };
        Some(archive_path(&path))
    }
}

/// `/a/./b.wasm`, `./a/b.wasm` and `a/b.wasm` are one path.
pub(crate) fn archive_path(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(config: &str, layers: &[&str]) -> OciImageManifest {
        let descriptor = |media_type: &str| OciDescriptor {
            media_type: media_type.to_owned(),
            ..OciDescriptor::default()
        };
        OciImageManifest {
            config: descriptor(config),
            layers: layers.iter().map(|layer| descriptor(layer)).collect(),
            ..OciImageManifest::default()
        }
    }

    #[test]
    fn artifacts_of_both_generations_are_wasm() {
        for config in ["application/vnd.wasm.config.v0+json", "application/vnd.oci.empty.v1+json"] {
            for layer in WASM_LAYERS {
                assert!(matches!(plan(&manifest(config, &[layer])), Plan::Layer(_)), "{config} {layer}");
            }
        }
    }

    #[test]
    fn container_images_are_decided_by_their_config() {
        let manifest = manifest(IMAGE_CONFIGS[0], &["application/vnd.oci.image.layer.v1.tar+gzip"]);
        assert!(matches!(plan(&manifest), Plan::Archive(_)));
        let linux = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert_eq!(RunConfig::of_wasm_image(linux).unwrap(), None);
        let wasm = br#"{"architecture":"wasm","os":"wasip1","rootfs":{"type":"layers","diff_ids":[]},
            "config":{"Entrypoint":["./app.wasm"],"WorkingDir":"/srv","Env":["A=b"]}}"#;
        let config = RunConfig::of_wasm_image(wasm).unwrap().unwrap();
        assert_eq!(config.program().as_deref(), Some("srv/app.wasm"));
        assert_eq!(config.env, ["A=b"]);
    }

    #[test]
    fn what_cannot_be_run_says_why() {
        let Plan::Unusable(reason) = plan(&manifest("application/vnd.cncf.helm.config.v1+json", &["x"]))
        else {
            panic!("a chart is no container");
        };
        assert!(reason.contains("helm"), "{reason}");
        let two = manifest(WASM_CONFIGS[0], &["application/wasm", "application/wasm"]);
        assert!(matches!(plan(&two), Plan::Unusable(_)));
    }
}
