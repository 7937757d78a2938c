//! Wasm containers: from what CRI says to what the shim runs.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use k8s_cri::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use naru_oci_fallback::Image;
use naru_wasi_shim::{
    Container, ContainerSpec, Engine, Exec, ExecError, ExitStatus, Limits, ModuleKind, Mount, Reuse, Stats,
};
use serde::Deserialize;

use super::{backend::Surroundings, error::PodError, file_mounts::FileMounts, locals::Locals};

/// Where a container's ports are, as kubelet writes them.
const PORTS: &str = "io.kubernetes.container.ports";
/// Where the container leaves its last words, as kubelet writes it.
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// On the pod, for all of its containers or, with `.NAME` behind it, for one: how many requests an instance of a
/// wasi:http container serves before it is replaced. Without it each request has an instance of its own.
const REUSE: &str = "wasm.naru.dev/max-requests-per-instance";
/// Where a wasi:http container listens that declares no port.
const DEFAULT_PORT: u16 = 8080;
/// Files that kubelet mounts for Linux programs; in a guest their content comes from the host functions.
const NOT_FOR_WASM: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
/// A wasi:http container does not end by itself, and each mount costs each of its requests: it gets this file only
/// under a name that somebody chose.
const NOT_FOR_SERVICES: &str = "/dev/termination-log";

pub(super) struct PreparedWasm {
    engine: Engine,
    locals: Arc<Locals>,
    spec: ContainerSpec,
    files: FileMounts,
}

impl PreparedWasm {
    pub(super) async fn new(
        image: &Image,
        file: &Path,
        config: &mut ContainerConfig,
        around: Surroundings<'_>,
    ) -> Result<Self, PodError> {
        verify(image, around.images).await?;
        let container = config.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default();
        let reuse = reuse(around.sandbox, container)?;
        let module = around
            .engine
            .load(file, &image.content_digest, reuse)
            .await
            .map_err(|source| PodError::Load { image: name_of(config), source })?;
        let pod = around.sandbox.metadata.as_ref();
        let is_http = matches!(module.kind(), ModuleKind::Http02 | ModuleKind::Http03);
        let mounts = mounts(config, is_http);
        make_message_file(config, &mounts).map_err(PodError::Start)?;
        let (mounts, files) = FileMounts::prepare(around.folder, mounts).map_err(PodError::Start)?;
        let spec = ContainerSpec {
            name: match pod {
                Some(pod) => format!("{}/{}/{container}", pod.namespace, pod.name),
                None => container.to_owned(),
            },
            module,
            http_ports: if is_http { http_ports(config)? } else { Vec::new() },
            reuse,
            args: args(image, std::mem::take(&mut config.command), std::mem::take(&mut config.args)),
            env: env(image, std::mem::take(&mut config.envs)),
            working_dir: Some(std::mem::take(&mut config.working_dir))
                .filter(|dir| !dir.is_empty())
                .or_else(|| image.working_dir.clone()),
            mounts,
            limits: Limits::default(),
            network: around.network,
            log: around.log,
            stdin: config.stdin,
        };
        Ok(Self { engine: around.engine.clone(), locals: Arc::clone(around.locals), spec, files })
    }

    pub(super) async fn start(
        mut self,
        resources: Option<&LinuxContainerResources>,
    ) -> Result<RunningWasm, String> {
        self.spec.limits = limits(resources);
        let address = self.spec.network.address();
        let ports = self.spec.http_ports.clone();
        let container = Container::start(&self.engine, self.spec).await?;
        let addresses: Arc<[SocketAddr]> = if container.is_http() {
            ports.into_iter().map(|port| SocketAddr::new(address, port)).collect()
        } else {
            Arc::new([])
        };
        for address in addresses.iter() {
            self.locals.add(*address, &container);
        }
        Ok(RunningWasm { container, locals: self.locals, addresses, _files: Arc::new(self.files) })
    }
}

#[derive(Clone)]
pub(super) struct RunningWasm {
    container: Container,
    locals: Arc<Locals>,
    addresses: Arc<[SocketAddr]>,
    _files: Arc<FileMounts>,
}

impl RunningWasm {
    pub(super) async fn wait(&self) -> ExitStatus {
        let status = self.container.wait().await;
        self.leave();
        status
    }

    pub(super) async fn stop(&self, grace: Duration) {
        self.leave();
        self.container.stop(grace).await;
    }

    pub(super) fn set_resources(&self, resources: &LinuxContainerResources) -> Result<(), String> {
        self.container.set_limits(limits(Some(resources)))
    }

    pub(super) fn exec(&self, command: Vec<String>, with_stdin: bool) -> Result<Exec, ExecError> {
        self.container.exec(command, with_stdin)
    }

    pub(super) async fn write_stdin(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.container.write_stdin(bytes).await
    }

    pub(super) async fn close_stdin(&self) {
        self.container.close_stdin().await;
    }

    pub(super) fn stats(&self) -> Stats {
        self.container.stats()
    }

    fn leave(&self) {
        for address in self.addresses.iter() {
            self.locals.remove(*address);
        }
    }
}

/// What the user calls the image: kubelet asks for it by its digest.
fn name_of(config: &ContainerConfig) -> String {
    let spec = config.image.clone().unwrap_or_default();
    if spec.user_specified_image.is_empty() { spec.image } else { spec.user_specified_image }
}

async fn verify(image: &Image, images: &naru_oci_fallback::ImageStore) -> Result<(), PodError> {
    if images.is_verified(image) {
        return Ok(());
    }
    let (images, image) = (images.clone(), image.clone());
    let verified = tokio::task::spawn_blocking(move || images.verify(&image)).await;
    verified.map_err(|error| PodError::Start(error.to_string()))?.map_err(PodError::Image)
}

/// The program and its arguments: `command` replaces the image's entrypoint and, as in Kubernetes, also its cmd.
fn args(image: &Image, command: Vec<String>, args: Vec<String>) -> Vec<String> {
    let has_command = !command.is_empty();
    let mut all = if has_command { command } else { image.entrypoint.clone() };
    if args.is_empty() && !has_command {
        all.extend(image.cmd.iter().cloned());
    } else {
        // An imported file has no entrypoint, and a program needs a name.
        if all.is_empty() {
            all.push(program_name(image));
        }
        all.extend(args);
    }
    if all.is_empty() {
        all.push(program_name(image));
    }
    all
}

fn program_name(image: &Image) -> String {
    let name = image.names.first().map_or("main", String::as_str);
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split([':', '@']).next().unwrap_or(last).to_owned()
}

/// The image's environment under the pod's.
fn env(image: &Image, envs: Vec<k8s_cri::v1::KeyValue>) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = image
        .env
        .iter()
        .filter_map(|variable| variable.split_once('='))
        .filter(|(key, _)| !envs.iter().any(|env| env.key == *key))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    all.extend(envs.into_iter().map(|env| (env.key, env.value)));
    all
}

fn mounts(config: &ContainerConfig, is_http: bool) -> Vec<Mount> {
    let wanted = config.mounts.iter().filter(|mount| {
        let path = mount.container_path.as_str();
        !(NOT_FOR_WASM.contains(&path) || is_http && path == NOT_FOR_SERVICES)
    });
    wanted
        .map(|mount| Mount {
            host_path: mount.host_path.clone().into(),
            guest_path: mount.container_path.clone(),
            read_only: mount.readonly,
        })
        .collect()
}

/// Makes the file for the container's last words if it is mounted: empty, and for any user to write to.
fn make_message_file(config: &ContainerConfig, mounts: &[Mount]) -> Result<(), String> {
    let path = config.annotations.get(MESSAGE_PATH);
    let Some(mount) = mounts.iter().find(|mount| path == Some(&mount.guest_path)) else { return Ok(()) };
    let file = &mount.host_path;
    let make = || {
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        let made = fs::File::options().append(true).create(true).open(file)?;
        made.set_permissions(fs::Permissions::from_mode(0o666))
    };
    make().map_err(|error| format!("cannot make the termination message file {}: {error}", file.display()))
}

pub(super) fn limits(resources: Option<&LinuxContainerResources>) -> Limits {
    let Some(resources) = resources else { return Limits { cpu_shares: 2, ..Limits::default() } };
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let period = positive(resources.cpu_period).unwrap_or(100_000);
    Limits {
        memory_bytes: positive(resources.memory_limit_in_bytes),
        cpu_shares: positive(resources.cpu_shares).unwrap_or(2).max(2),
        cpu_limit_millis: positive(resources.cpu_quota).map(|quota| (quota * 1000).div_ceil(period)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    container_port: u16,
    #[serde(default)]
    protocol: String,
}

fn http_ports(config: &ContainerConfig) -> Result<Vec<u16>, PodError> {
    let Some(text) = config.annotations.get(PORTS) else { return Ok(vec![DEFAULT_PORT]) };
    let ports: Option<Vec<Port>> = serde_json::from_str(text)
        .map_err(|error| PodError::Invalid(format!("annotation {PORTS} is not a list of ports: {error}")))?;
    let tcp =
        ports.unwrap_or_default().into_iter().filter(|port| matches!(port.protocol.as_str(), "" | "TCP"));
    let mut tcp: Vec<_> = tcp.map(|port| port.container_port).collect();
    tcp.sort_unstable();
    tcp.dedup();
    Ok(if tcp.is_empty() { vec![DEFAULT_PORT] } else { tcp })
}

fn reuse(sandbox: &PodSandboxConfig, container: &str) -> Result<Reuse, PodError> {
    let own = sandbox.annotations.get(&format!("{REUSE}.{container}"));
    let Some(text) = own.or_else(|| sandbox.annotations.get(REUSE)) else { return Ok(Reuse::Never) };
    match text.parse() {
        Ok(0 | 1) => Ok(Reuse::Never),
        Ok(max_requests) => Ok(Reuse::Instances { max_requests }),
        Err(_) => {
            Err(PodError::Invalid(format!("annotation {REUSE}: \"{text}\" is not a number of requests")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use k8s_cri::v1::KeyValue;
    use naru_oci_fallback::ImageKind;

    use super::*;

    fn image(entrypoint: &[&str], cmd: &[&str]) -> Image {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Image {
            digest: String::new(),
            content_digest: String::new(),
            names: vec!["example.com/shop/hello:v1".to_owned()],
            repo_digests: Vec::new(),
            size: 0,
            kind: ImageKind::Wasm { file: PathBuf::new() },
            entrypoint: strings(entrypoint),
            cmd: strings(cmd),
            env: vec!["A=image".to_owned(), "B=image".to_owned()],
            working_dir: None,
            user: None,
        }
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd_as_in_kubernetes() {
        #[track_caller]
        fn check(command: &[&str], extra: &[&str], expected: &[&str]) {
            let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let image = image(&["/app.wasm"], &["x"]);
            assert_eq!(args(&image, strings(command), strings(extra)), expected);
        }
        check(&[], &[], &["/app.wasm", "x"]);
        check(&[], &["y"], &["/app.wasm", "y"]);
        check(&["/other"], &[], &["/other"]);
        check(&["/other"], &["y"], &["/other", "y"]);
        // An imported file has neither.
        assert_eq!(args(&image(&[], &[]), vec![], vec![]), ["hello"]);
        assert_eq!(args(&image(&[], &[]), vec![], vec!["y".to_owned()]), ["hello", "y"]);
    }

    #[test]
    fn the_pod_s_environment_goes_over_the_image_s() {
        let envs = vec![KeyValue { key: "B".to_owned(), value: "pod".to_owned() }];
        let expected = [("A", "image"), ("B", "pod")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(env(&image(&[], &[]), envs), expected);
    }

    #[test]
    fn http_is_served_on_the_declared_tcp_ports() {
        #[track_caller]
        fn check(annotation: Option<&str>, expected: &[u16]) {
            let mut config = ContainerConfig::default();
            config.annotations.extend(annotation.map(|text| (PORTS.to_owned(), text.to_owned())));
            assert_eq!(http_ports(&config).unwrap(), expected);
        }
        check(None, &[8080]);
        check(Some("[]"), &[8080]);
        check(Some("null"), &[8080]);
        check(
            Some(
                r#"[{"name":"http","containerPort":80,"protocol":"TCP"},{"containerPort":53,"protocol":"UDP"}]"#,
            ),
            &[80],
        );
        check(Some(r#"[{"containerPort":9000},{"containerPort":80}]"#), &[80, 9000]);
    }

    #[test]
    fn limits_come_from_the_cgroup_numbers() {
        let limits = limits(Some(&LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 25_000,
            cpu_shares: 102,
            memory_limit_in_bytes: 64 << 20,
            ..LinuxContainerResources::default()
        }));
        assert_eq!(
            (limits.cpu_limit_millis, limits.cpu_shares, limits.memory_bytes),
            (Some(250), 102, Some(64 << 20))
        );
        let none = super::limits(Some(&LinuxContainerResources {
            cpu_quota: -1,
            ..LinuxContainerResources::default()
        }));
        assert_eq!((none.cpu_limit_millis, none.cpu_shares, none.memory_bytes), (None, 2, None));
    }

    #[test]
    fn reuse_is_asked_for_by_annotation_per_pod_or_per_container() {
        let mut sandbox = PodSandboxConfig::default();
        assert_eq!(reuse(&sandbox, "web").unwrap(), Reuse::Never);
        sandbox.annotations.insert(REUSE.to_owned(), "100".to_owned());
        sandbox.annotations.insert(format!("{REUSE}.web"), "1".to_owned());
        assert_eq!(reuse(&sandbox, "web").unwrap(), Reuse::Never);
        assert_eq!(reuse(&sandbox, "side").unwrap(), Reuse::Instances { max_requests: 100 });
        sandbox.annotations.insert(REUSE.to_owned(), "many".to_owned());
        assert!(reuse(&sandbox, "side").is_err());
    }
}
