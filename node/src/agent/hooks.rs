//! postStart and preStop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::{prober::http_target, runtime::Runtime};

const USER_AGENT: &str = "kube-lifecycle/1.37";
/// A hook has no timeout of its own; the caller's grace period or patience ends it.
const HTTP_TIMEOUT: Duration = Duration::from_mins(1);

/// Runs a hook to its end.
///
/// # Errors
/// A text for the event.
pub async fn run(
    handler: &LifecycleHandler,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
    runtime: &dyn Runtime,
) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        Ok(())
    } else if let Some(action) = &handler.http_get {
        let target = http_target(action, container, pod_ip)?;
        match target.get(HTTP_TIMEOUT, USER_AGENT).await? {
            (200..400, _) => Ok(()),
            (code, body) => Err(format!("Get {:?}: unexpected status code {code}: {body}", target.url())),
        }
    } else if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let response = runtime.exec(container_id, command.clone(), 0).await.map_err(|error| error.message)?;
        if response.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&response.stderr).into_owned();
        Err(format!("command '{}' exited with {}: {output}", command.join(" "), response.exit_code))
    } else {
        Err("this node supports the hook handlers httpGet, sleep and exec".into())
    }
}
