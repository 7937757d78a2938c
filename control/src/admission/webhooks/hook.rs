//! One webhook: what it applies to, how it is called, and what follows when it cannot be.

use std::time::Duration;

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchCondition, MutatingWebhook, RuleWithOperations, ValidatingWebhook, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{
    Asked, Content,
    review::{self, Verdict},
};
use crate::{
    ApiError,
    admission::{
        expressions::{Conditions, Input},
        matching::Criteria,
    },
    registry::Served,
    store::Store,
    webhook::{Place, ServicePlace, Webhook},
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_PORT: u16 = 443;

/// A webhook of either kind, as its configuration has it.
pub(super) struct Spec<'a> {
    name: &'a str,
    client: &'a WebhookClientConfig,
    rules: &'a [RuleWithOperations],
    match_policy: Option<&'a str>,
    namespaces: Option<&'a LabelSelector>,
    objects: Option<&'a LabelSelector>,
    conditions: &'a [MatchCondition],
    failure_policy: Option<&'a str>,
    side_effects: &'a str,
    timeout_seconds: Option<i32>,
    versions: &'a [String],
    reinvocation_policy: Option<&'a str>,
    is_mutating: bool,
}

/// Both types have the same fields but one, and nothing else in common.
macro_rules! spec {
    ($hook:expr, $reinvocation_policy:expr, $is_mutating:expr) => {{
        let hook = $hook;
        Spec {
            name: &hook.name,
            client: &hook.client_config,
            rules: hook.rules.as_deref().unwrap_or_default(),
            match_policy: hook.match_policy.as_deref(),
            namespaces: hook.namespace_selector.as_ref(),
            objects: hook.object_selector.as_ref(),
            conditions: hook.match_conditions.as_deref().unwrap_or_default(),
            failure_policy: hook.failure_policy.as_deref(),
            side_effects: &hook.side_effects,
            timeout_seconds: hook.timeout_seconds,
            versions: &hook.admission_review_versions,
            reinvocation_policy: $reinvocation_policy,
            is_mutating: $is_mutating,
        }
    }};
}

impl<'a> From<&'a MutatingWebhook> for Spec<'a> {
    fn from(hook: &'a MutatingWebhook) -> Self {
        spec!(hook, hook.reinvocation_policy.as_deref(), true)
    }
}

impl<'a> From<&'a ValidatingWebhook> for Spec<'a> {
    fn from(hook: &'a ValidatingWebhook) -> Self {
        spec!(hook, None, false)
    }
}

/// A webhook that is ready to be asked.
pub(in crate::admission) struct Hook {
    pub(super) configuration: String,
    pub name: String,
    criteria: Result<Criteria, String>,
    client: Result<Webhook, String>,
    conditions: Conditions,
    /// Whether a request goes on when the webhook cannot be asked.
    is_optional: bool,
    /// Whether it may be asked again, when others changed what it has seen.
    pub is_reinvocable: bool,
    /// Whether it does nothing but answer when it is told that nothing is written.
    takes_dry_runs: bool,
    is_mutating: bool,
    /// The version of reviews that it is sent.
    version: &'static str,
}

/// Why a webhook gave no verdict.
#[derive(Debug)]
pub(super) enum Unheard {
    /// It could not be asked, or gave no answer that can be read.
    Failed(String),
    /// The request cannot be shown to it at all.
    Refused(ApiError),
}

impl From<ApiError> for Unheard {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl Hook {
    pub(super) fn new(configuration: &str, spec: &Spec<'_>, store: &Store) -> Self {
        let criteria = Criteria::of_webhook(spec.rules, spec.match_policy, spec.namespaces, spec.objects);
        Self {
            configuration: configuration.into(),
            name: spec.name.into(),
            criteria: criteria.map_err(|error| error.to_string()),
            client: client(spec, store),
            conditions: Conditions::compile(spec.conditions, false),
            is_optional: spec.failure_policy == Some("Ignore"),
            is_reinvocable: spec.reinvocation_policy == Some("IfNeeded"),
            takes_dry_runs: matches!(spec.side_effects, "None" | "NoneOnDryRun"),
            is_mutating: spec.is_mutating,
            version: review_version(spec.versions),
        }
    }

    /// The form in which it is to be asked about the request; `None` where it is not concerned. `content` is the state
    /// after the request.
    pub fn applies<'a>(
        &self,
        asked: &Asked<'a>,
        content: Content<'_>,
    ) -> Result<Option<&'a Served>, ApiError> {
        let criteria = self.criteria.as_ref().map_err(|problem| {
            ApiError::Internal(format!("the selectors of webhook {:?} cannot be read: {problem}", self.name))
        })?;
        let Some(served) = asked.matches(criteria, content)? else { return Ok(None) };
        Ok(self.is_wanted(asked, served, content)?.then_some(served))
    }

    /// Whether its conditions hold.
    fn is_wanted(&self, asked: &Asked<'_>, served: &Served, content: Content<'_>) -> Result<bool, ApiError> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let facts = review::facts(asked, served, content, self.is_mutating)?;
        match self.conditions.hold(&Input::new(&facts, asked.call.user, asked.authorizer)) {
            Ok(holds) => Ok(holds),
            Err(_) if self.is_optional => Ok(false),
            Err(message) => Err(ApiError::Refused {
                resource: asked.call.served.qualified.clone(),
                name: asked.name.clone(),
                message,
                causes: Vec::new(),
            }),
        }
    }

    /// Asks it about the request in the form of `served`.
    pub(super) async fn ask(
        &self,
        asked: &Asked<'_>,
        served: &Served,
        content: Content<'_>,
    ) -> Result<Verdict, Unheard> {
        if asked.call.dry_run && !self.takes_dry_runs {
            let message = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(ApiError::BadRequest(message).into());
        }
        let failed =
            |problem: String| Unheard::Failed(format!("failed calling webhook {:?}: {problem}", self.name));
        let client = self
            .client
            .as_ref()
            .map_err(|problem| failed(format!("could not get REST client: {problem}")))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let review = review::request(asked, served, content, self.version, &uid, self.is_mutating)?;
        let answer = client.call(&review).await;
        let answer = answer.map_err(|problem| failed(format!("failed to call webhook: {problem}")))?;
        let mut verdict = review::verdict(answer, self.version, &uid, self.is_mutating)
            .map_err(|problem| failed(problem.to_string()))?;
        verdict.note(&self.name, asked);
        Ok(verdict)
    }

    /// What follows from its silence: nothing, where its owner said so, but for what `note` does.
    pub(super) fn excuse(&self, why: Unheard, note: impl FnOnce()) -> Result<(), ApiError> {
        match why {
            Unheard::Refused(error) => Err(error),
            Unheard::Failed(problem) if self.is_optional => {
                tracing::warn!(configuration = self.configuration, problem, "a webhook is passed over");
                note();
                Ok(())
            }
            Unheard::Failed(problem) => Err(ApiError::Internal(problem)),
        }
    }
}

/// The first of the versions that a webhook knows which we know, too.
fn review_version(versions: &[String]) -> &'static str {
    let known = |version: &String| ["v1", "v1beta1"].into_iter().find(|known| known == version);
    versions.iter().find_map(known).unwrap_or("v1")
}

fn client(spec: &Spec<'_>, store: &Store) -> Result<Webhook, String> {
    let seconds = spec.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let timeout = seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let client = spec.client;
    let service = client.service.as_ref().map(|service| ServicePlace {
        namespace: &service.namespace,
        name: &service.name,
        path: service.path.as_deref().unwrap_or_default(),
        port: service.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT),
    });
    let authority = client.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0);
    Webhook::new(&Place { url: client.url.as_deref(), service, authority }, timeout, store.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_that_both_know_is_spoken() {
        for (versions, expected) in [
            (&["v1", "v1beta1"][..], "v1"),
            (&["v2", "v1beta1", "v1"], "v1beta1"),
            (&["v1beta1"], "v1beta1"),
            (&[], "v1"),
        ] {
            let versions: Vec<String> = versions.iter().map(|version| (*version).to_owned()).collect();
            assert_eq!(review_version(&versions), expected, "{versions:?}");
        }
    }
}
