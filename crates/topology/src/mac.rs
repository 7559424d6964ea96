//! MAC addresses that follow from names: router ports and DHCP servers need one before anybody can be asked.

use api::MacAddr;
use ovsdb_types::{RowKey, nb};

use crate::northbound;

/// First octet of MACs of router ports and DHCP servers. The allocator's begin with 02, so within a VPC the two never meet.
const ROUTER_PORT: u8 = 0x0e;

/// The MAC of the port by which `vpc`'s router serves `subnet`: 40 bits of the row's identifier.
pub(crate) fn of_router_port(vpc: &str, subnet: &str) -> MacAddr {
    MacAddr::local(ROUTER_PORT, northbound::router_port(vpc, subnet).uuid(&nb::SCHEMA).as_u64_pair().1)
}

/// The MAC that OVN answers DHCP under, for a subnet's row of options.
pub(crate) fn of_dhcp_server(options: &RowKey) -> MacAddr {
    MacAddr::local(ROUTER_PORT, options.uuid(&nb::SCHEMA).as_u64_pair().1)
}
