//! What a switch answers when it refuses (`ofp_error_msg`).

use std::fmt;

/// An error message of the switch. It carries the xid of the request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ErrorReply {
    /// `ofp_error_type`: what it is about.
    pub kind: u16,
    /// What is wrong; its meaning depends on the type.
    pub code: u16,
    /// The beginning of the request that failed, or text.
    pub data: Vec<u8>,
}

/// `ofp_error_type`, by number, without `OFPET_`.
const KINDS: [&str; 18] = [
    "HELLO_FAILED",
    "BAD_REQUEST",
    "BAD_ACTION",
    "BAD_INSTRUCTION",
    "BAD_MATCH",
    "FLOW_MOD_FAILED",
    "GROUP_MOD_FAILED",
    "PORT_MOD_FAILED",
    "TABLE_MOD_FAILED",
    "QUEUE_OP_FAILED",
    "SWITCH_CONFIG_FAILED",
    "ROLE_REQUEST_FAILED",
    "METER_MOD_FAILED",
    "TABLE_FEATURES_FAILED",
    "BAD_PROPERTY",
    "ASYNC_CONFIG_FAILED",
    "FLOW_MONITOR_FAILED",
    "BUNDLE_FAILED",
];

/// `ofp_bad_request_code`, by number, without `OFPBRC_`, as far as flows and bundles can cause them.
const BAD_REQUEST: [&str; 10] = [
    "BAD_VERSION",
    "BAD_TYPE",
    "BAD_MULTIPART",
    "BAD_EXPERIMENTER",
    "BAD_EXP_TYPE",
    "EPERM",
    "BAD_LEN",
    "BUFFER_EMPTY",
    "BUFFER_UNKNOWN",
    "BAD_TABLE_ID",
];

/// `ofp_flow_mod_failed_code`, by number, without `OFPFMFC_`.
const FLOW_MOD_FAILED: [&str; 10] =
    ["UNKNOWN", "TABLE_FULL", "BAD_TABLE_ID", "OVERLAP", "EPERM", "BAD_TIMEOUT", "BAD_COMMAND", "BAD_FLAGS", "CANT_SYNC", "BAD_PRIORITY"];

/// `ofp_bundle_failed_code`, by number, without `OFPBFC_`.
const BUNDLE_FAILED: [&str; 16] = [
    "UNKNOWN",
    "EPERM",
    "BAD_ID",
    "BUNDLE_EXIST",
    "BUNDLE_CLOSED",
    "OUT_OF_BUNDLES",
    "BAD_TYPE",
    "BAD_FLAGS",
    "MSG_BAD_LEN",
    "MSG_BAD_XID",
    "MSG_UNSUP",
    "MSG_CONFLICT",
    "MSG_TOO_MANY",
    "MSG_FAILED",
    "TIMEOUT",
    "BUNDLE_IN_PROGRESS",
];

impl ErrorReply {
    /// The names that the specification gives to type and code, as far as we know them.
    #[must_use]
    pub fn names(&self) -> (Option<&'static str>, Option<&'static str>) {
        let of = |list: &[&'static str], number: u16| list.get(usize::from(number)).copied();
        let kind = of(&KINDS, self.kind);
        let code = match kind {
            Some("BAD_REQUEST") => of(&BAD_REQUEST, self.code),
            Some("FLOW_MOD_FAILED") => of(&FLOW_MOD_FAILED, self.code),
            Some("BUNDLE_FAILED") => of(&BUNDLE_FAILED, self.code),
            _ => None,
        };
        (kind, code)
    }
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names() {
            (Some(kind), Some(code)) => write!(f, "the switch refused: {kind}: {code}"),
            (Some(kind), None) => write!(f, "the switch refused: {kind}: code {}", self.code),
            (None, _) => write!(f, "the switch refused: error of type {}, code {}", self.kind, self.code),
        }
    }
}
