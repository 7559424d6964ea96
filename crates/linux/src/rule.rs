//! Rules of policy routing (RFC 1104; ip-rule(8)): which table a packet's route is looked up in.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::IpVersion;

use crate::link::absent;
use crate::{Handle, IpPrefix, Result};

/// A rule that leads packets from a prefix to a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The lowest comes first; the main table has 32766.
    pub priority: u32,
    /// Where packets are from.
    pub source: IpPrefix,
    /// Name of the link that they come by; any without.
    pub incoming: Option<String>,
    /// Routing table.
    pub table: u32,
    /// Who made it (`FRA_PROTOCOL`), as for routes.
    pub protocol: u8,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.source.address().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.src_len = self.source.length();
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.attributes.push(RuleAttribute::Table(self.table));
        message.attributes.push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(self.protocol)));
        if self.source.length() > 0 {
            message.attributes.push(RuleAttribute::Source(self.source.address()));
        }
        message.attributes.extend(self.incoming.clone().map(RuleAttribute::Iifname));
        message
    }

    /// Reads one of this kind; one that asks for anything else is of another.
    fn read(message: &RuleMessage) -> Option<Self> {
        let default = match message.header.family {
            AddressFamily::Inet => IpPrefix::DEFAULT_V4,
            AddressFamily::Inet6 => IpPrefix::DEFAULT_V6,
            _ => return None,
        };
        if message.header.action != RuleAction::ToTable || message.header.dst_len > 0 || message.header.tos != 0 {
            return None;
        }
        let mut rule = Self { priority: 0, source: default, incoming: None, table: u32::from(message.header.table), protocol: 0 };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Source(address) => rule.source = IpPrefix::new(*address, message.header.src_len).ok()?,
                RuleAttribute::Iifname(name) => rule.incoming = Some(name.clone()),
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
                RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
                _ => return None,
            }
        }
        Some(rule)
    }
}

impl Handle {
    /// The rules of this kind, of both families, sorted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn rules(&self) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let found = self.collect("rules", || self.netlink.rule().get(version.clone()).execute()).await?;
            rules.extend(found.iter().filter_map(Rule::read));
        }
        rules.sort();
        Ok(rules)
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// When it is there already, or the kernel refuses.
    pub async fn add_rule(&self, rule: &Rule) -> Result<()> {
        let mut request = self.netlink.rule().add();
        *request.message_mut() = rule.message();
        request.execute().await.map_err(|error| self.failed(&object(rule), "add", error))
    }

    /// Deletes a rule. A missing one is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_rule(&self, rule: &Rule) -> Result<()> {
        match self.netlink.rule().del(rule.message()).execute().await {
            Ok(()) => Ok(()),
            Err(error) => absent::<()>(self.failed(&object(rule), "delete", error)).map(drop),
        }
    }
}

fn object(rule: &Rule) -> String {
    format!("rule {} from {} to table {}", rule.priority, rule.source, rule.table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::{Event, Events, Subject};

    #[tokio::test]
    async fn rules_come_and_go_and_the_kernels_own_stay() {
        let scratch = Scratch::new("rule");
        let (handle, (_, mut events)) = (Handle::open(&scratch.netns).unwrap(), Events::open(&scratch.netns, Subject::Addressing).unwrap());
        let before = handle.rules().await.unwrap();
        assert_eq!(before.iter().filter(|rule| rule.priority == 32_766).count(), 2, "{before:?}");
        let rule = |source: &str, incoming: Option<&str>, table| Rule {
            priority: 1000,
            source: source.parse().unwrap(),
            incoming: incoming.map(str::to_owned),
            table,
            protocol: 157,
        };
        let ours = [rule("10.1.0.0/16", None, 100), rule("10.2.0.0/16", Some("br-ex"), 70_000), rule("fd00::/64", Some("br-ex"), 254)];
        for rule in &ours {
            handle.add_rule(rule).await.unwrap();
        }
        let shown: Vec<_> = handle.rules().await.unwrap().into_iter().filter(|rule| rule.protocol == 157).collect();
        assert_eq!(shown, ours);
        assert_eq!(events.next().await, Some(Event::Rule));
        for rule in ours.iter().chain(&ours[..1]) {
            handle.delete_rule(rule).await.unwrap();
        }
        assert_eq!(handle.rules().await.unwrap(), before);
    }
}
