//! Admission rules that several kinds share, in CEL: what could never work is refused where it is written.
//!
//! The API server estimates the cost of a rule before it accepts a definition, and takes each text to be as long and each
//! list as full as the schema allows. So what a rule reads has a `maxLength` or `maxItems`; a text of two parts is cut with
//! `substring`, whose result has a length, not with `split`; and no rule on a list's element walks that element's parts.

use kube::core::{Message, Reason, Rule};

/// The longest single address or prefix, with room for blanks.
pub(super) const ONE: u32 = 64;
/// The longest pair of addresses or prefixes.
pub(super) const PAIR: u32 = 128;
/// The longest list of addresses or prefixes in one text.
pub(super) const MANY: u32 = 1024;
/// One address of either family.
pub(super) const IP: (&str, &str) = ("self == '' || isIP(self)", "must be one IP address such as 10.16.0.10 or fd00::a");
/// One address, or the word for a subnet's gateway.
pub(super) const IP_OR_GATEWAY: (&str, &str) =
    ("self in ['', 'gateway'] || isIP(self)", "must be one IP address such as 10.16.0.1, or the word gateway");
/// One IPv4 address.
pub(super) const IPV4: (&str, &str) =
    ("self == '' || (isIP(self) && ip(self).family() == 4)", "must be one IPv4 address such as 10.16.0.10");
/// One IPv6 address.
pub(super) const IPV6: (&str, &str) = ("self == '' || (isIP(self) && ip(self).family() == 6)", "must be one IPv6 address such as fd00::a");
/// One address or prefix of either family.
pub(super) const IP_OR_CIDR: (&str, &str) =
    ("self == '' || isIP(self) || isCIDR(self)", "must be one IP address or CIDR such as 10.16.0.10 or 10.16.0.0/16");
/// One IPv4 address or prefix.
pub(super) const IPV4_OR_CIDR: (&str, &str) = (
    "self == '' || (isIP(self) ? ip(self).family() == 4 : isCIDR(self) && cidr(self).ip().family() == 4)",
    "must be one IPv4 address or CIDR such as 10.16.0.10 or 10.16.0.0/16",
);
/// One IPv6 address or prefix.
pub(super) const IPV6_OR_CIDR: (&str, &str) = (
    "self == '' || (isIP(self) ? ip(self).family() == 6 : isCIDR(self) && cidr(self).ip().family() == 6)",
    "must be one IPv6 address or CIDR such as fd00::a or fd00::/64",
);
/// A MAC address that a port may have: neither a group address nor all zero.
pub(super) const MAC: (&str, &str) = (
    "self == '' || (self.matches('^[0-9a-fA-F][02468aceACE]([:-][0-9a-fA-F]{2}){5}$') && !self.matches('^00([:-]00){5}$'))",
    "must be a unicast MAC address such as 02:00:00:00:00:01",
);
/// A port number as a text.
pub(super) const PORT: (&str, &str) =
    ("self == '' || (self.matches('^[0-9]{1,5}$') && int(self) >= 1 && int(self) <= 65535)", "must be a port number between 1 and 65535");
/// TCP or UDP in either case.
pub(super) const TCP_UDP: (&str, &str) = ("self.lowerAscii() in ['', 'tcp', 'udp']", "must be tcp or udp");
/// TCP, UDP or SCTP in either case.
pub(super) const TCP_UDP_SCTP: (&str, &str) = ("self.lowerAscii() in ['', 'tcp', 'udp', 'sctp']", "must be tcp, udp or sctp");
/// A span of time as the Go language writes it.
pub(super) const DURATION: (&str, &str) = (
    "self.matches('^(0|([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))*)$')",
    "must be a duration such as 90s or 1m30s, in the units ns, us, ms, s, m and h",
);
/// A decimal number as a text.
pub(super) const DECIMAL: (&str, &str) = ("self.matches('^([0-9]+([.][0-9]+)?)?$')", "must be a decimal number such as 100 or 0.5");

/// Source or destination, and a prefix.
pub(super) const QOS_MATCH: (&str, &str) = (
    "self == '' || (self.matches('^(src|dst) ') && isCIDR(self.substring(4)))",
    "must be src or dst, a blank and a CIDR, such as dst 10.16.0.0/16",
);

/// The parts of `text` before and after its first comma; without one, `text` twice.
fn parts(text: &str) -> (String, String) {
    (format!("{text}.substring(0, ({text} + ',').indexOf(','))"), format!("{text}.substring({text}.indexOf(',') + 1)"))
}

/// `text` is an address, or one of each family joined by a comma.
fn is_ip_pair(text: &str) -> String {
    let (a, b) = parts(text);
    format!("isIP({a}) && isIP({b}) && (!{text}.contains(',') || ip({a}).family() != ip({b}).family())")
}

/// `text` is a prefix, or one of each family joined by a comma.
fn is_cidr_pair(text: &str) -> String {
    let (a, b) = parts(text);
    format!("isCIDR({a}) && isCIDR({b}) && (!{text}.contains(',') || cidr({a}).ip().family() != cidr({b}).ip().family())")
}

const SELF: &str = "self.replace(' ', '')";

/// One address, or one of each family.
pub(super) fn ip_pair() -> Rule {
    Rule::new(format!("self == '' || ({})", is_ip_pair(SELF)))
        .message("must be an IP address, or one IPv4 and one IPv6 address joined by a comma")
}

/// One prefix, or one of each family.
pub(super) fn cidr_pair() -> Rule {
    Rule::new(format!("self == '' || ({})", is_cidr_pair(SELF)))
        .message("must be a CIDR such as 10.16.0.0/16, or one IPv4 and one IPv6 CIDR joined by a comma")
}

/// Prefixes with room for a gateway and a host.
pub(super) fn room_for_hosts() -> Rule {
    let (a, b) = parts(SELF);
    Rule::new(format!("self == '' || [{a}, {b}].all(c, !isCIDR(c) || cidr(c).prefixLength() <= (cidr(c).ip().family() == 4 ? 30 : 126))"))
        .message("must leave room for a gateway and a host: a prefix length of at most 30 (IPv4) or 126 (IPv6)")
}

/// Addresses of any family and number: the first and what follows the last comma are parsed, of the rest only the characters.
pub(super) fn ip_list() -> Rule {
    Rule::new(format!("self == '' || ({} && {SELF}.matches('^[0-9a-fA-F:.]+(,[0-9a-fA-F:.]+)*$'))", ends("isIP(e)")))
        .message("must be IP addresses joined by commas")
}

/// Addresses and prefixes of any family and number, parsed like [`ip_list`].
pub(super) fn ip_or_cidr_list() -> Rule {
    Rule::new(format!("self == '' || ({} && {SELF}.matches('^[0-9a-fA-F:./]+(,[0-9a-fA-F:./]+)*$'))", ends("(isIP(e) || isCIDR(e))")))
        .message("must be IP addresses or CIDRs joined by commas, such as 10.16.0.10,10.17.0.0/16")
}

/// The first and the last part of this text pass `test`.
fn ends(test: &str) -> String {
    let last = format!("{SELF}.substring({SELF}.lastIndexOf(',') + 1)");
    format!("[{}, {last}].all(e, {test})", parts(SELF).0)
}

/// Every address of `field` lies in a prefix of `block`; where one of them is malformed, its own rule says so.
pub(super) fn inside(field: &str, block: &str) -> Rule {
    let (address, prefix) = (format!("self.{field}.replace(' ', '')"), format!("self.{block}.replace(' ', '')"));
    let ((a, b), (c, d)) = (parts(&address), parts(&prefix));
    let rule = format!(
        "!has(self.{field}) || self.{field} == '' || !has(self.{block}) || self.{block} == '' || ![{a}, {b}].all(a, isIP(a)) || ![{c}, {d}].all(c, isCIDR(c)) \
         || [{a}, {b}].all(a, [{c}, {d}].exists(c, cidr(c).containsIP(ip(a))))"
    );
    explained(&rule, &format!("'{field} ' + self.{field} + ' must lie inside {block} ' + self.{block}"), field)
}

/// Every element `e` passes `test`.
fn each(test: &str, expected: &str) -> Rule {
    Rule::new(format!("self.all(e, {test})")).message(format!("each must be {expected}").as_str())
}

/// A list of addresses.
pub(super) fn each_ip() -> Rule {
    each("isIP(e)", "an IP address such as 10.16.0.10 or fd00::a")
}

/// A list of addresses or pairs of them.
pub(super) fn each_ip_pair() -> Rule {
    each(&is_ip_pair("e.replace(' ', '')"), "an IP address, or one IPv4 and one IPv6 address joined by a comma")
}

/// A list of prefixes.
pub(super) fn each_cidr() -> Rule {
    each("isCIDR(e)", "a CIDR such as 10.16.0.0/16 or fd00::/64")
}

/// A list of prefixes or pairs of them.
pub(super) fn each_cidr_pair() -> Rule {
    each(&is_cidr_pair("e.replace(' ', '')"), "a CIDR, or one IPv4 and one IPv6 CIDR joined by a comma")
}

/// A list of addresses and prefixes.
pub(super) fn each_ip_or_cidr() -> Rule {
    each("isIP(e) || isCIDR(e)", "an IP address or CIDR such as 10.16.0.10 or 10.16.0.0/16")
}

/// `e` is a range `a..b` of one family.
const IS_RANGE: &str = "isIP(e.substring(0, e.indexOf('..'))) && isIP(e.substring(e.indexOf('..') + 2)) \
                        && ip(e.substring(0, e.indexOf('..'))).family() == ip(e.substring(e.indexOf('..') + 2)).family()";

/// A list of addresses, prefixes, and ranges `a..b`.
pub(super) fn each_range_or_cidr() -> Rule {
    let test = format!("e.contains('..') ? {IS_RANGE} : isIP(e) || isCIDR(e)");
    each(&test, "an IP address, a CIDR, or a range such as 10.16.0.10..10.16.0.20")
}

/// A list of MAC addresses.
pub(super) fn each_mac() -> Rule {
    each("e.matches('^[0-9a-fA-F][02468aceACE]([:-][0-9a-fA-F]{2}){5}$')", "a unicast MAC address such as 02:00:00:00:00:01")
}

/// A list of `key:value` terms.
pub(super) fn each_label() -> Rule {
    each("e.matches('^[^:]+:[^:]*$')", "a label and its value joined by a colon, such as app:web")
}

/// A list of BGP route targets (RFC 4360).
pub(super) fn each_route_target() -> Rule {
    each("e.matches('^[0-9]+([.][0-9]+){0,3}:[0-9]+$')", "a route target such as 65000:100")
}

/// `field` of this object cannot change once it has a value.
pub(super) fn fixed(field: &str, message: &str) -> Rule {
    let name = cel_name(field);
    let rule = format!("!has(oldSelf.{name}) || oldSelf.{name} == '' || (has(self.{name}) && self.{name} == oldSelf.{name})");
    Rule::new(rule).message(message).field_path(format!(".{field}"))
}

/// `field` of this object must have a value.
pub(super) fn required(field: &str, message: &str) -> Rule {
    let name = cel_name(field);
    let rule = format!("has(self.{name}) && self.{name} != ''");
    Rule::new(rule).message(message).reason(Reason::FieldValueRequired).field_path(format!(".{field}"))
}

/// `rule` with a message that CEL computes, on `field`.
pub(super) fn explained(rule: &str, message: &str, field: &str) -> Rule {
    Rule::new(rule).message(Message::Expression(message.to_owned())).field_path(format!(".{field}"))
}

/// CEL escapes its reserved words.
fn cel_name(field: &str) -> String {
    if field == "namespace" { format!("__{field}__") } else { field.to_owned() }
}
