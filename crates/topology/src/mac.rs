//! MAC addresses that follow from names: router ports and DHCP servers need one before anybody can be asked.

use api::MacAddr;
use ovsdb_types::{RowKey, nb};

use crate::northbound;

/// First octet of MACs of router ports and DHCP servers. The allocator's begin with 02, so within a VPC the two never meet.
const ROUTER_PORT: u8 = 0x0e;

/// The MAC of the port by which `vpc`'s router serves `subnet`: 40 bits of the row's identifier.
pub(crate) fn of_router_port(vpc: &str, subnet: &str) -> MacAddr {
    of_row(&northbound::router_port(vpc, subnet))
}

/// The MAC of what a row makes.
pub(crate) fn of_row(row: &RowKey) -> MacAddr {
    MacAddr::local(ROUTER_PORT, row.uuid(&nb::SCHEMA).as_u64_pair().1)
}
