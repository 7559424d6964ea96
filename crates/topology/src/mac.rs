//! MAC addresses that follow from names: router ports need one before anybody can be asked.

use api::MacAddr;
use ovsdb_types::RowKey;
use ovsdb_types::nb;

/// First octet of router ports' MACs. The allocator's begin with 02, so within a VPC the two never meet.
const ROUTER_PORT: u8 = 0x0e;

/// The MAC of the port by which `vpc`'s router serves `subnet`: 40 bits of the row's identifier.
pub(crate) fn of_router_port(vpc: &str, subnet: &str) -> MacAddr {
    let id = RowKey::new(nb::logical_router_port::TABLE, format!("{vpc}/{subnet}")).uuid(&nb::SCHEMA);
    MacAddr::local(ROUTER_PORT, id.as_u64_pair().1)
}
