//! PriorityLevelConfigurations: how many requests of a level are worked on, and what becomes of the others.

use k8s_openapi::{
    api::flowcontrol::v1::{
        LimitResponse, LimitedPriorityLevelConfiguration, PriorityLevelConfiguration,
        PriorityLevelConfigurationSpec, QueuingConfiguration,
    },
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::{Value, json};

use super::{EXEMPT, bootstrap, validate_conditions};
use crate::registry::{
    Column, Kind,
    kind::{Context, age},
    podspec::OrEmpty,
    text,
};

pub struct PriorityLevels;

const MAX_QUEUES: i32 = 10_000_000;
/// As many bits of a flow's hash choose its queues.
const MAX_HASH_BITS: i32 = 60;
const POSITIVE: &str = "must be positive";
const NOT_NEGATIVE: &str = "must be a non-negative integer";

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "flowcontrol.apiserver.k8s.io",
    namespaced: false,
    subresources: &["status"],
    ..text::core_resource(
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
        "prioritylevelconfiguration",
        &[],
    )
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Type",
        "string",
        0,
        "`type` indicates whether this priority level is subject to limitation on request execution.  A value of `\"Exempt\"` means that requests of this priority level are not subject to a limit (and thus are never queued) and do not detract from the capacity made available to other priority levels.  A value of `\"Limited\"` means that (a) requests of this priority level _are_ subject to limits and (b) some of the server's limited capacity is made available exclusively to this priority level. Required.",
    ),
    text::column(
        "NominalConcurrencyShares",
        "string",
        0,
        "`nominalConcurrencyShares` (NCS) contributes to the computation of the NominalConcurrencyLimit (NominalCL) of this level. This is the number of execution seats available at this priority level.",
    ),
    text::column(
        "Queues",
        "string",
        0,
        "`queues` is the number of queues for this priority level. The queues exist independently at each apiserver. The value must be positive.  Setting it to 1 effectively precludes shufflesharding and thus makes the distinguisher method of associated flow schemas irrelevant.  This field has a default value of 64.",
    ),
    text::column(
        "HandSize",
        "string",
        0,
        "`handSize` is a small positive number that configures the shuffle sharding of requests into queues.  When enqueuing a request at this priority level the request's flow identifier (a string pair) is hashed and the hash value is used to shuffle the list of queues and deal a hand of the size specified here.  The request is put into one of the shortest queues in that hand. `handSize` must be no larger than `queues`, and should be significantly smaller (so that a few heavy flows do not saturate most of the queues).  See the user-facing documentation for more extensive guidance on setting this field.  This field has a default value of 8.",
    ),
    text::column(
        "QueueLengthLimit",
        "string",
        0,
        "`queueLengthLimit` is the maximum number of requests allowed to be waiting in a given queue of this priority level at a time; excess requests are rejected.  This value must be positive.  If not specified, it will be defaulted to 50.",
    ),
    text::AGE,
];

impl Kind for PriorityLevels {
    type Object = PriorityLevelConfiguration;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, level: &mut PriorityLevelConfiguration) {
        let spec = &mut level.spec;
        if let Some(exempt) = &mut spec.exempt {
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        let Some(limited) = &mut spec.limited else { return };
        limited.nominal_concurrency_shares.get_or_insert(30);
        limited.lendable_percent.get_or_insert(0);
        if let Some(queuing) = &mut limited.limit_response.queuing {
            for (field, value) in [
                (&mut queuing.queues, 64),
                (&mut queuing.hand_size, 8),
                (&mut queuing.queue_length_limit, 50),
            ] {
                field.take_if(|value| *value == 0);
                field.get_or_insert(value);
            }
        }
    }

    fn prepare_create(&self, level: &mut PriorityLevelConfiguration, _context: &Context<'_>) {
        level.status = Some(Default::default());
    }

    fn prepare_update(
        &self,
        new: &mut PriorityLevelConfiguration,
        old: &PriorityLevelConfiguration,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut PriorityLevelConfiguration,
        old: &PriorityLevelConfiguration,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, level: &PriorityLevelConfiguration, errors: &mut FieldErrors) {
        let (name, path) = (level.metadata.name.or_empty(), Path::new("spec"));
        validate_spec(&level.spec, name, &path, errors);
        let Some(mut fixed) = bootstrap::mandatory_level(name) else { return };
        let detail = if name == EXEMPT {
            // How much of its share others may borrow is for the administrator to say.
            fixed.exempt.clone_from(&level.spec.exempt);
            format!("spec of '{name}' except the 'spec.exempt' field must equal the fixed value")
        } else {
            format!("spec of '{name}' must equal the fixed value")
        };
        if fixed != level.spec {
            errors.invalid(&path, json!(level.spec), &detail);
        }
    }

    fn validate_status_update(
        &self,
        new: &PriorityLevelConfiguration,
        _old: &PriorityLevelConfiguration,
        errors: &mut FieldErrors,
    ) {
        let conditions = new.status.as_ref().map(|status| status.conditions.or_empty()).unwrap_or_default();
        validate_conditions(conditions.iter().map(|condition| condition.type_.as_str()), errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, level: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
        let or_none = |number: Option<i32>| number.map_or_else(|| json!("<none>"), Value::from);
        let limited = level.spec.limited.as_ref();
        let queuing = limited.and_then(|limited| limited.limit_response.queuing.as_ref());
        vec![
            level.metadata.name.or_empty().into(),
            level.spec.type_.as_str().into(),
            or_none(limited.and_then(|limited| limited.nominal_concurrency_shares)),
            or_none(queuing.and_then(|queuing| queuing.queues)),
            or_none(queuing.and_then(|queuing| queuing.hand_size)),
            or_none(queuing.and_then(|queuing| queuing.queue_length_limit)),
            age(level.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn validate_spec(spec: &PriorityLevelConfigurationSpec, name: &str, path: &Path, errors: &mut FieldErrors) {
    let (kind, at) = (spec.type_.as_str(), path.child("type"));
    if (name == EXEMPT) != (kind == "Exempt") {
        errors.invalid(&at, kind, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    let (limited, exempt) = (path.child("limited"), path.child("exempt"));
    match kind {
        "Exempt" => {
            if spec.limited.is_some() {
                errors.forbidden(&limited, "must be nil if the type is not Limited");
            }
            if let Some(of) = &spec.exempt {
                validate_shares(of.nominal_concurrency_shares, of.lendable_percent, &exempt, errors);
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                errors.forbidden(&exempt, "must be nil if the type is Limited");
            }
            match &spec.limited {
                Some(of) => validate_limited(of, &limited, errors),
                None => errors.required(&limited, "must not be empty when type is Limited"),
            }
        }
        other => errors.not_supported(&at, other, &["Exempt", "Limited"]),
    }
}

fn validate_shares(shares: Option<i32>, lendable: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(shares) = shares.filter(|shares| *shares < 0) {
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, NOT_NEGATIVE);
    }
    if let Some(percent) = lendable.filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn validate_limited(of: &LimitedPriorityLevelConfiguration, path: &Path, errors: &mut FieldErrors) {
    validate_shares(of.nominal_concurrency_shares, of.lendable_percent, path, errors);
    validate_response(&of.limit_response, &path.child("limitResponse"), errors);
    if let Some(percent) = of.borrowing_limit_percent.filter(|percent| *percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), percent, detail);
    }
}

fn validate_response(response: &LimitResponse, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => {
            errors.forbidden(&at, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Reject", None) => (),
        ("Queue", Some(queuing)) => validate_queuing(queuing, &at, errors),
        ("Queue", None) => {
            errors.required(&at, "must not be empty if limited.limitResponse.type is Limited");
        }
        (other, _) => errors.not_supported(&path.child("type"), other, &["Queue", "Reject"]),
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path, errors: &mut FieldErrors) {
    let value = |field: Option<i32>| field.unwrap_or_default();
    let (queues, hand) = (value(queuing.queues), value(queuing.hand_size));
    if value(queuing.queue_length_limit) <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), queuing.queue_length_limit, POSITIVE);
    }
    let at = path.child("queues");
    if queues <= 0 {
        errors.invalid(&at, queues, POSITIVE);
    } else if queues > MAX_QUEUES {
        errors.invalid(&at, queues, &format!("must not be greater than {MAX_QUEUES}"));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, POSITIVE);
    } else if hand > queues {
        errors.invalid(&at, hand, &format!("should not be greater than queues ({queues})"));
    } else if f64::from(queues).log2() * f64::from(hand) > f64::from(MAX_HASH_BITS) {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        errors.invalid(&at, hand, &detail);
    }
}
