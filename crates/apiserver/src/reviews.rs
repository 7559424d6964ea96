//! Reviews: questions that are posted and answered, and not stored. Whoever has the token may do everything.

use serde_json::{Value, json};

use crate::error::Error;
use crate::http_server::USER;

/// Group, kind, resource.
pub const REVIEWS: [(&str, &str, &str); 3] = [
    ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews"),
    ("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
];

/// The kind of review that is posted to a path.
pub fn at(path: &str) -> Option<&'static str> {
    let (group, resource) = path.strip_prefix("/apis/")?.split_once("/v1/")?;
    REVIEWS.iter().find(|(known, _, plural)| *known == group && *plural == resource).map(|(_, kind, _)| *kind)
}

/// The review with its answer.
pub fn answer(kind: &str, mut review: Value) -> Result<Value, Error> {
    if !review.is_object() || !review["metadata"].is_object() && !review["metadata"].is_null() {
        return Err(Error::BadRequest(format!("the body is not a {kind}")));
    }
    let everything = json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]);
    let paths = json!([{ "verbs": ["*"], "nonResourceURLs": ["*"] }]);
    review["status"] = match kind {
        "SelfSubjectReview" => json!({ "userInfo": { "username": USER, "groups": ["system:masters", "system:authenticated"] } }),
        "SelfSubjectAccessReview" => json!({ "allowed": true }),
        _ => json!({ "resourceRules": everything, "nonResourceRules": paths, "incomplete": false }),
    };
    Ok(review)
}
