//! The Kubernetes API as the workers see it: the few calls they make, behind a trait, real or fake.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http_body_util::BodyExt;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Event, Pod, Secret, ServiceAccount},
    node::v1::RuntimeClass,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    client::{Body, ClientBuilder, ConfigExt},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::{identity::PodIdentity, settings::AgentError};

/// Why the API did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The object is not there; the text is the API's, such as `configmaps "x" not found`.
    #[error("{0}")]
    NotFound(String),
    /// The object is another one than was meant, or has changed.
    #[error("{0}")]
    Conflict(String),
    /// Refused for good.
    #[error("{0}")]
    Refused(String),
    /// No answer, or a failure of the server: worth another try.
    #[error("{0}")]
    Unavailable(String),
}

pub type ClusterResult<T> = Result<T, ClusterError>;

/// An entry of the cluster's own image store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ClusterImage {
    pub name: String,
    pub digest: String,
    #[serde(default)]
    pub size: u64,
}

#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    async fn patch_pod_status(&self, pod: &PodIdentity, patch: &Value) -> ClusterResult<()>;
    /// Removes the pod at once, if it is still the same one.
    async fn finish_pod_deletion(&self, pod: &PodIdentity) -> ClusterResult<()>;
    async fn config_map(&self, namespace: &str, name: &str) -> ClusterResult<ConfigMap>;
    async fn secret(&self, namespace: &str, name: &str) -> ClusterResult<Secret>;
    async fn runtime_class(&self, name: &str) -> ClusterResult<RuntimeClass>;
    /// A token of a service account, bound to `pod`.
    async fn account_token(
        &self,
        pod: &PodIdentity,
        account: &str,
        audience: Option<&str>,
        seconds: i64,
    ) -> ClusterResult<String>;
    async fn create_event(&self, event: &Event) -> ClusterResult<()>;
    async fn patch_event(&self, namespace: &str, name: &str, patch: &Value) -> ClusterResult<()>;
    /// `None` where the cluster has no such image, or no image store at all.
    async fn resolve_image(&self, name: &str) -> ClusterResult<Option<ClusterImage>>;
    async fn image_blob(&self, digest: &str) -> ClusterResult<BoxStream<'static, Result<Bytes, String>>>;
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let message = status.message.clone();
                match status.code {
                    404 => Self::NotFound(message),
                    409 => Self::Conflict(message),
                    429 | 500.. => Self::Unavailable(message),
                    _ => Self::Refused(message),
                }
            }
            other => Self::Unavailable(with_sources(&other)),
        }
    }
}

/// The whole chain of an error in one line.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The agent does the kubelet's job, and the fields that it writes are known as the kubelet's.
const USER_AGENT: http::HeaderValue = http::HeaderValue::from_static("kubelet/v1.37.0 (naru)");

/// Bytes that the server may send ahead of what was read, on one stream and on the whole connection. A connection whose
/// window is small comes in small pieces when a thousand answers wait to be read, and HTTP/2 libraries take many small
/// pieces for an attack, more of them the larger the window is.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A client that multiplexes over HTTP/2 where the server has it: hundreds of status writes share one connection.
pub fn connect(config: &kube::Config) -> Result<Client, AgentError> {
    // A process may hold several crypto providers; whoever chose first is right.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let build = || -> Result<Client, kube::Error> {
        let tls = config.rustls_client_config()?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions();
        let https = connector.build();
        let http = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .build::<_, Body>(https);
        let service = tower::ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .map_request(|mut request: http::Request<Body>| {
                request.headers_mut().insert(http::header::USER_AGENT, USER_AGENT);
                request
            })
            .map_err(Into::<tower::BoxError>::into)
            .service(http);
        Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
    };
    build().map_err(AgentError::ApiAccess)
}

/// The real API.
pub struct KubeCluster {
    client: Client,
}

impl KubeCluster {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn get_raw(&self, path: String) -> ClusterResult<http::Response<Body>> {
        let request = http::Request::get(path).body(Body::empty()).expect("the path is percent-encoded");
        Ok(self.client.send(request).await?)
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[async_trait]
impl Cluster for KubeCluster {
    async fn patch_pod_status(&self, pod: &PodIdentity, patch: &Value) -> ClusterResult<()> {
        let api = self.pods(&pod.namespace);
        // The raw request: the answer, a whole pod, is on its way through the watch already.
        let params = PatchParams::default();
        let request = kube::core::Request::new(api.resource_url())
            .patch_subresource("status", &pod.name, &params, &Patch::Strategic(patch))
            .map_err(|error| ClusterError::Refused(error.to_string()))?;
        let response = self.client.send(request.map(Body::from)).await?;
        check(response).await.map(drop)
    }

    async fn finish_pod_deletion(&self, pod: &PodIdentity) -> ClusterResult<()> {
        let preconditions = Preconditions { uid: Some(pod.uid.clone()), ..Default::default() };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        self.pods(&pod.namespace).delete(&pod.name, &params).await?;
        Ok(())
    }

    async fn config_map(&self, namespace: &str, name: &str) -> ClusterResult<ConfigMap> {
        Ok(Api::namespaced(self.client.clone(), namespace).get(name).await?)
    }

    async fn secret(&self, namespace: &str, name: &str) -> ClusterResult<Secret> {
        Ok(Api::namespaced(self.client.clone(), namespace).get(name).await?)
    }

    async fn runtime_class(&self, name: &str) -> ClusterResult<RuntimeClass> {
        Ok(Api::all(self.client.clone()).get(name).await?)
    }

    async fn account_token(
        &self,
        pod: &PodIdentity,
        account: &str,
        audience: Option<&str>,
        seconds: i64,
    ) -> ClusterResult<String> {
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
        };
        let spec = TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience.to_owned()]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(bound),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &pod.namespace);
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        let token = answer.status.and_then(|status| status.token);
        token.ok_or_else(|| ClusterError::Refused("the API answered without a token".into()))
    }

    async fn create_event(&self, event: &Event) -> ClusterResult<()> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        api.create(&PostParams::default(), event).await?;
        Ok(())
    }

    async fn patch_event(&self, namespace: &str, name: &str, patch: &Value) -> ClusterResult<()> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(())
    }

    async fn resolve_image(&self, name: &str) -> ClusterResult<Option<ClusterImage>> {
        let response = self.get_raw(format!("/naru/v1/images/resolve?name={}", encoded(name))).await?;
        match check(response).await {
            Ok(response) => {
                let bytes = response
                    .into_body()
                    .collect()
                    .await
                    .map_err(|error| ClusterError::Unavailable(with_sources(&error)))?
                    .to_bytes();
                let image = serde_json::from_slice(&bytes);
                image.map(Some).map_err(|error| ClusterError::Refused(format!("image {name}: {error}")))
            }
            // Another distribution's API server knows no such path, or lets nodes see none that it does not know.
            Err(ClusterError::NotFound(_) | ClusterError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn image_blob(&self, digest: &str) -> ClusterResult<BoxStream<'static, Result<Bytes, String>>> {
        let response = check(self.get_raw(format!("/naru/v1/blobs/{digest}")).await?).await?;
        let body = response.into_body();
        Ok(body.into_data_stream().map_err(|error| with_sources(&error)).boxed())
    }
}

/// An error answer, as what it means.
async fn check(response: http::Response<Body>) -> ClusterResult<http::Response<Body>> {
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let bytes = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message = serde_json::from_slice::<Value>(&bytes)
        .ok()
        .and_then(|status| status["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("the API server answered {code}"));
    Err(match code.as_u16() {
        404 => ClusterError::NotFound(message),
        409 => ClusterError::Conflict(message),
        429 | 500.. => ClusterError::Unavailable(message),
        _ => ClusterError::Refused(message),
    })
}
