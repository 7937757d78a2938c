//! Answers questions about tokens and rights: `kubectl auth can-i`, `auth whoami`, and what webhooks ask.

use http::{Response, StatusCode};
use k8s_openapi::{
    api::{
        authentication::v1::{
            SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo,
        },
        authorization::v1::{
            LocalSubjectAccessReview, NonResourceAttributes, NonResourceRule, ResourceAttributes,
            ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
            SubjectAccessReviewSpec, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use naru_model::validation::{FieldErrors, Path};

use super::{
    body::Body,
    computed,
    handler::{Exchange, State, json_response},
    recording, resources,
};
use crate::{
    ApiError,
    auth::{Attributes, User},
    registry::{AnyObject, Call, decode},
    store::Key,
};

/// Answers a review; the user may ask it.
pub async fn answer(exchange: Exchange<'_>, call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let state = exchange.state.clone();
    let (form, _) = resources::negotiate(&exchange, call.served)?;
    let record = exchange.record;
    let text = exchange.read_object(true).await?;
    let (mut review, warnings) = decode::object(call.served, &text, call.validation)?;
    recording::object(record, call.served, &*review);
    call.warn(warnings);
    let mut errors = FieldErrors::default();
    fill(&state, call, &mut *review, &mut errors).await;
    call.check("", errors)?;
    let entry = computed::unstored_draft(Key::new(&call.served.qualified, "", ""), review.draft())?;
    Ok(json_response(StatusCode::CREATED, form.object(call.served, &entry)?))
}

async fn fill(state: &State, call: &Call<'_>, review: &mut dyn AnyObject, errors: &mut FieldErrors) {
    if let Some(review) = review.get_mut::<TokenReview>() {
        if review.spec.token.is_empty() {
            return errors.required(&Path::new("spec").child("token"), "");
        }
        review.status = Some(token_status(state, review).await);
    } else if let Some(review) = review.get_mut::<SelfSubjectReview>() {
        // Whatever was sent, the answer is about now.
        review.metadata =
            ObjectMeta { creation_timestamp: Some(Time(Timestamp::now())), ..ObjectMeta::default() };
        review.status = Some(SelfSubjectReviewStatus { user_info: Some(user_info(call.user)) });
    } else if let Some(review) = review.get_mut::<SubjectAccessReview>() {
        check_subject(&review.spec, errors);
        review.status = Some(of_subject(state, &review.spec, errors));
    } else if let Some(review) = review.get_mut::<LocalSubjectAccessReview>() {
        check_subject(&review.spec, errors);
        check_namespace(call.namespace, &review.spec, errors);
        review.status = Some(of_subject(state, &review.spec, errors));
    } else if let Some(review) = review.get_mut::<SelfSubjectAccessReview>() {
        let spec = &review.spec;
        let asked = (spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
        review.status = Some(decide(state, call.user, asked, errors));
    } else if let Some(review) = review.get_mut::<SelfSubjectRulesReview>() {
        let namespace = review.spec.namespace.as_deref().unwrap_or_default();
        if namespace.is_empty() {
            return errors.invalid(&Path::new("spec").child("namespace"), "", "no namespace on request");
        }
        review.status = Some(rules(state, call.user, namespace));
    }
}

async fn token_status(state: &State, review: &TokenReview) -> TokenReviewStatus {
    let asked = review.spec.audiences.clone().filter(|audiences| !audiences.is_empty());
    let audiences = asked.unwrap_or_else(|| state.authenticator.issuer().api_audiences());
    match state.authenticator.believe(&review.spec.token, &audiences, state.registry.store()).await {
        Ok(believed) => TokenReviewStatus {
            authenticated: Some(true),
            user: Some(user_info(&believed.user)),
            audiences: Some(believed.audiences),
            error: None,
        },
        // Nobody, which Kubernetes' type cannot leave out.
        Err(error) => TokenReviewStatus {
            user: Some(UserInfo::default()),
            error: Some(error),
            ..TokenReviewStatus::default()
        },
    }
}

fn user_info(user: &User) -> UserInfo {
    UserInfo {
        username: Some(user.name.to_string()),
        uid: Some(user.uid.to_string()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.to_vec()),
        extra: (!user.extra.is_empty()).then(|| (*user.extra).clone()),
    }
}

fn check_subject(spec: &SubjectAccessReviewSpec, errors: &mut FieldErrors) {
    let has_user = spec.user.as_ref().is_some_and(|user| !user.is_empty());
    if !has_user && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        let path = Path::new("spec").child("user");
        errors.required(&path, "at least one of user or group must be specified");
    }
}

fn check_namespace(namespace: &str, spec: &SubjectAccessReviewSpec, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let asked = spec.resource_attributes.as_ref().and_then(|of| of.namespace.as_deref()).unwrap_or_default();
    if spec.resource_attributes.is_some() && asked != namespace {
        let path = path.child("resourceAttributes").child("namespace");
        errors.invalid(&path, asked, "must match metadata.namespace");
    }
    if spec.non_resource_attributes.is_some() {
        let detail = "disallowed on this kind of request";
        errors.invalid(&path.child("nonResourceAttributes"), serde_json::json!({}), detail);
    }
}

fn of_subject(
    state: &State,
    spec: &SubjectAccessReviewSpec,
    errors: &mut FieldErrors,
) -> SubjectAccessReviewStatus {
    let user = User {
        name: spec.user.clone().unwrap_or_default().into(),
        uid: spec.uid.clone().unwrap_or_default().into(),
        groups: spec.groups.clone().unwrap_or_default().into(),
        extra: spec.extra.clone().unwrap_or_default().into(),
    };
    decide(state, &user, (spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref()), errors)
}

fn decide(
    state: &State,
    user: &User,
    asked: (Option<&ResourceAttributes>, Option<&NonResourceAttributes>),
    errors: &mut FieldErrors,
) -> SubjectAccessReviewStatus {
    let selector;
    let attributes = match asked {
        (Some(of), None) => {
            selector = of.field_selector.as_ref().map(field_selector).unwrap_or_default();
            Attributes {
                verb: text(of.verb.as_ref()),
                group: text(of.group.as_ref()),
                resource: text(of.resource.as_ref()),
                subresource: text(of.subresource.as_ref()),
                namespace: text(of.namespace.as_ref()),
                name: text(of.name.as_ref()),
                path: "",
                field_selector: &selector,
            }
        }
        (None, Some(of)) => {
            Attributes { verb: text(of.verb.as_ref()), path: text(of.path.as_ref()), ..Attributes::default() }
        }
        (Some(_), Some(_)) => {
            let path = Path::new("spec").child("nonResourceAttributes");
            let detail = "cannot be specified in combination with resourceAttributes";
            errors.invalid(&path, serde_json::json!({}), detail);
            return SubjectAccessReviewStatus::default();
        }
        (None, None) => {
            let path = Path::new("spec").child("resourceAttributes");
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&path, serde_json::Value::Null, detail);
            return SubjectAccessReviewStatus::default();
        }
    };
    let (allowed, reason) = state.registry.authorizer().explain(user, &attributes);
    let reason = Some(reason).filter(|reason| !reason.is_empty());
    SubjectAccessReviewStatus { allowed, reason, ..SubjectAccessReviewStatus::default() }
}

fn text(of: Option<&String>) -> &str {
    of.map(String::as_str).unwrap_or_default()
}

/// The selector as a request would have said it, as far as it can: only equalities matter to authorizers.
fn field_selector(of: &k8s_openapi::api::authorization::v1::FieldSelectorAttributes) -> String {
    if let Some(raw) = of.raw_selector.as_ref().filter(|raw| !raw.is_empty()) {
        return raw.clone();
    }
    let terms = of.requirements.iter().flatten().filter_map(|term| match term.values.as_deref() {
        Some([value]) if term.operator == "In" => Some(format!("{}={value}", term.key)),
        _ => None,
    });
    terms.collect::<Vec<_>>().join(",")
}

fn rules(state: &State, user: &User, namespace: &str) -> SubjectRulesReviewStatus {
    let mut status = SubjectRulesReviewStatus::default();
    for rule in state.registry.authorizer().rbac.rules(user, namespace) {
        if rule.resources.as_ref().is_some_and(|resources| !resources.is_empty()) {
            status.resource_rules.push(ResourceRule {
                verbs: rule.verbs.clone(),
                api_groups: rule.api_groups,
                resources: rule.resources,
                resource_names: rule.resource_names,
            });
        }
        if rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
            status
                .non_resource_rules
                .push(NonResourceRule { verbs: rule.verbs, non_resource_urls: rule.non_resource_urls });
        }
    }
    if user.node().is_some() {
        status.incomplete = true;
        status.evaluation_error = Some("node authorizer does not support user rule resolution".into());
    }
    status
}
