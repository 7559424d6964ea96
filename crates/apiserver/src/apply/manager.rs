//! The name under which a client owns fields, and the options of a write that concern it.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#managers>

use http::{HeaderMap, Method, header};
use serde_json::json;

use crate::error::{Cause, Error};
use crate::request::Query;

/// The media type of configurations.
pub const MEDIA: &str = "application/apply-patch+yaml";

/// Bytes that a name may have.
const LONGEST: usize = 128;

/// Who writes without a name.
const NAMELESS: &str = "unknown";

/// Refuses options that contradict each other or the kind of write.
pub fn check_options(method: &Method, media: &str, query: &Query) -> Result<(), Error> {
    const FIELD: &str = "fieldManager";
    let options = match *method {
        Method::POST => "CreateOptions",
        Method::PUT => "UpdateOptions",
        Method::PATCH => "PatchOptions",
        _ => return Ok(()),
    };
    let manager = query.get(FIELD);
    let apply = *method == Method::PATCH && media == MEDIA;
    let mut causes = Vec::new();
    if apply && manager.is_empty() {
        causes.push(Cause { message: "Required value: is required for apply patch".to_owned(), ..Cause::required(FIELD) });
    }
    if *method == Method::PATCH && !apply && query.all("force").next().is_some() {
        causes.push(Cause::forbidden("force", "may not be specified for non-apply patch"));
    }
    if manager.len() > LONGEST {
        let message = format!("Too long: may not be more than {LONGEST} bytes");
        causes.push(Cause { field: FIELD.to_owned(), reason: "FieldValueTooLong", message });
    }
    if manager.chars().any(char::is_control) {
        causes.push(Cause::invalid(FIELD, &json!(manager), "should only contain printable characters"));
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Error::Invalid { kind: format!("{options}.meta.k8s.io"), name: String::new(), causes })
}

/// Who writes: as the query says, or the client's program.
pub fn manager(query: &Query, headers: &HeaderMap) -> String {
    let named = query.get("fieldManager");
    if !named.is_empty() {
        return named.to_owned();
    }
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let program = agent.split('/').next().unwrap_or_default();
    let program = &program[..program.floor_char_boundary(LONGEST)];
    if program.is_empty() { NAMELESS.to_owned() } else { program.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(&format!("/x?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn the_program_writes_unless_the_query_names_somebody() {
        let mut headers = HeaderMap::new();
        assert_eq!(manager(&query(""), &headers), "unknown");
        headers.insert(header::USER_AGENT, "kubectl/v1.33 (linux)".parse().unwrap());
        assert_eq!(manager(&query(""), &headers), "kubectl");
        assert_eq!(manager(&query("fieldManager=me"), &headers), "me");
    }

    #[test]
    fn options_that_do_not_fit_the_write_are_refused() {
        let said = |media: &str, text: &str| check_options(&Method::PATCH, media, &query(text)).unwrap_err().to_string();
        let missing = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        assert_eq!(said(MEDIA, "force=true"), missing);
        let forced = "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch";
        assert_eq!(said("application/merge-patch+json", "force=false"), forced);
        assert!(said("", &format!("fieldManager={}", "x".repeat(129))).ends_with("Too long: may not be more than 128 bytes"));
        assert!(said("", "fieldManager=a%0Ab").ends_with("should only contain printable characters"));
    }
}
