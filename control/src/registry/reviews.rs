//! Reviews: questions about tokens and rights. They are answered and never stored, so they can only be created.

use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, TokenReview},
    authorization::v1::{
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    },
};
use naru_model::ResourceInfo;

use super::{Kind, text};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

macro_rules! reviews {
    ($($name:ident: $object:ident, $group:expr, $plural:literal, $singular:literal, $namespaced:literal;)*) => { $(
        pub struct $name;

        impl Kind for $name {
            type Object = $object;

            fn resource(&self) -> &'static ResourceInfo {
                static RESOURCE: ResourceInfo = ResourceInfo {
                    group: $group,
                    namespaced: $namespaced,
                    verbs: &["create"],
                    ..text::core_resource(stringify!($object), $plural, $singular, &[])
                };
                &RESOURCE
            }
        }
    )* };
}

reviews! {
    TokenReviews: TokenReview, AUTHENTICATION, "tokenreviews", "tokenreview", false;
    SelfSubjectReviews: SelfSubjectReview, AUTHENTICATION, "selfsubjectreviews", "selfsubjectreview", false;
    SubjectAccessReviews: SubjectAccessReview, AUTHORIZATION, "subjectaccessreviews", "subjectaccessreview", false;
    LocalSubjectAccessReviews:
        LocalSubjectAccessReview, AUTHORIZATION, "localsubjectaccessreviews", "localsubjectaccessreview", true;
    SelfSubjectAccessReviews:
        SelfSubjectAccessReview, AUTHORIZATION, "selfsubjectaccessreviews", "selfsubjectaccessreview", false;
    SelfSubjectRulesReviews:
        SelfSubjectRulesReview, AUTHORIZATION, "selfsubjectrulesreviews", "selfsubjectrulesreview", false;
}
