//! Which manifests of our kinds are admitted, and what the others are told: through the server's own client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use serde_json::{Value, json};

/// Specs by kind. `+` is admitted, `-` is refused with a message that holds what follows `=>`; `->` is an update.
const VERDICTS: &str = r"
BgpConf
+ {}
+ {localASN: 65001, peerASN: 4200000000, routerId: 10.0.0.1, neighbours: [10.0.0.2, 'fd00::2'], holdTime: 90s, keepaliveTime: 1m30s, connectTime: '0'}
+ {holdTime: '', routerId: ''}
- {localASN: 4294967296} => spec.localASN
- {localASN: -1} => spec.localASN
- {routerId: 'fd00::1'} => spec.routerId: Invalid value: 'fd00::1': must be one IPv4 address
- {neighbours: [10.0.0.2, tor]} => spec.neighbours: Invalid value: 'array': each must be an IP address
- {holdTime: 90} => spec.holdTime
- {holdTime: soon} => spec.holdTime: Invalid value: 'soon': must be a duration such as 90s

EvpnConf
+ {vni: 100, routeTargets: ['65000:100', '10.0.0.1:7']}
- {vni: 16777216} => spec.vni in body should be less than or equal to 16777215
- {routeTargets: ['100']} => spec.routeTargets: Invalid value: 'array': each must be a route target

DNSNameResolver
+ {name: www.example.com.}
+ {name: '*.example.com.'}
- {} => spec.name: Required value
- {name: example} => spec.name in body should match
- {name: a.example.com.} -> {name: b.example.com.} => spec.name: Invalid value: 'b.example.com.': the name cannot change

IP
+ {}
+ {subnet: s, podName: web, namespace: default, v4IpAddress: 10.0.0.2, v6IpAddress: '', ipAddress: '10.0.0.2,fd00::2', macAddress: '0A-00-00-00-00-01'}
+ {subnet: s, v4IpAddress: 10.0.0.2} -> {subnet: t, v4IpAddress: 10.1.0.2}
- {v4IpAddress: 'fd00::2'} => spec.v4IpAddress: Invalid value: 'fd00::2': must be one IPv4 address
- {v4IpAddress: 10.0.0.256} => must be one IPv4 address
- {v6IpAddress: 10.0.0.2} => must be one IPv6 address
- {ipAddress: '10.0.0.2,10.0.0.3'} => one IPv4 and one IPv6 address
- {ipAddress: '10.0.0.2,fd00::2,fd00::3'} => one IPv4 and one IPv6 address
- {macAddress: '01:00:00:00:00:01'} => spec.macAddress: Invalid value: '01:00:00:00:00:01': must be a unicast MAC address
- {macAddress: '00:00:00:00:00:00'} => must be a unicast MAC address
- {macAddress: '02:00:00:00:00'} => must be a unicast MAC address
- {attachIps: [x]} => spec.attachIps
- {attachMacs: [x]} => spec.attachMacs

IPPool
+ {subnet: s, ips: [10.0.0.10, 10.0.0.20..10.0.0.30, 10.0.1.0/24, 'fd00::1..fd00::9']}
+ {subnet: s, ips: []} -> {subnet: s, ips: [10.0.0.10], namespaces: [default]}
- {ips: [10.0.0.10]} => spec.subnet: Required value
- {subnet: s} => spec.ips: Required value
- {subnet: s, ips: [10.0.0.20..10.0.0.300]} => each must be an IP address, a CIDR, or a range
- {subnet: s, ips: [10.0.0.20-10.0.0.30]} => each must be an IP address, a CIDR, or a range
- {subnet: s, ips: [10.0.0.1..10.0.0.2..10.0.0.3]} => each must be
- {subnet: s, ips: ['10.0.0.1..fd00::1']} => each must be
- {subnet: s, ips: [10.0.0.10]} -> {subnet: t, ips: [10.0.0.10]} => spec.subnet: Invalid value: 't': a pool cannot move to another subnet

IptablesEIP
+ {natGwDp: gw}
+ {natGwDp: gw, v4ip: '', macAddress: ''} -> {natGwDp: gw, v4ip: 172.16.0.10, macAddress: '02:00:00:00:00:01', qosPolicy: slow}
- {} => spec.natGwDp: Required value: the VpcNatGateway that has the address
- {natGwDp: ''} => spec.natGwDp: Required value
- {natGwDp: gw, v4ip: banana} => spec.v4ip: Invalid value: 'banana': must be one IPv4 address
- {natGwDp: gw, v6ip: 10.0.0.1} => spec.v6ip
- {natGwDp: gw, macAddress: zz} => spec.macAddress
- {natGwDp: gw, v4ip: 172.16.0.10} -> {natGwDp: gw, v4ip: 172.16.0.11} => spec.v4ip: Invalid value: '172.16.0.11': v4ip of an external address cannot change
- {natGwDp: gw, v4ip: 172.16.0.10} -> {natGwDp: gw} => v4ip of an external address cannot change
- {natGwDp: gw, externalSubnet: a} -> {natGwDp: gw, externalSubnet: b} => externalSubnet of an external address cannot change
- {natGwDp: gw} -> {natGwDp: other} => natGwDp of an external address cannot change
- {natGwDp: gw, v6ip: 'fd00::1'} -> {natGwDp: gw, v6ip: 'fd00::2'} => v6ip of an external address cannot change

IptablesFIPRule
+ {eip: e, internalIp: 10.0.0.2}
- {internalIp: 10.0.0.2} => spec.eip: Required value
- {eip: e} => spec.internalIp: Required value
- {eip: e, internalIp: 10.0.0.0/24} => must be one IP address

IptablesDnatRule
+ {eip: e, externalPort: '8080', internalPort: '80', internalIp: 10.0.0.2, protocol: TCP}
+ {eip: e, externalPort: '8080', internalPort: '80', internalIp: 10.0.0.2, protocol: udp, type: share}
- {externalPort: '8080', internalPort: '80', internalIp: 10.0.0.2} => spec.eip: Required value
- {eip: e, internalPort: '80', internalIp: 10.0.0.2} => spec.externalPort: Required value
- {eip: e, externalPort: '8080', internalIp: 10.0.0.2} => spec.internalPort: Required value
- {eip: e, externalPort: '8080', internalPort: '80'} => spec.internalIp: Required value
- {eip: e, externalPort: '70000', internalPort: '80', internalIp: 10.0.0.2} => spec.externalPort: Invalid value: '70000': must be a port number between 1 and 65535
- {eip: e, externalPort: '8080', internalPort: '0', internalIp: 10.0.0.2} => spec.internalPort
- {eip: e, externalPort: http, internalPort: '80', internalIp: 10.0.0.2} => must be a port number
- {eip: e, externalPort: '8080', internalPort: '80', internalIp: 10.0.0.2, protocol: icmp} => spec.protocol: Invalid value: 'icmp': must be tcp or udp
- {eip: e, externalPort: '8080', internalPort: '80', internalIp: 10.0.0.2, type: some} => supported values: 'exclusive', 'share'

IptablesSnatRule
+ {eip: e, internalCIDR: 10.0.0.0/24}
+ {eip: e, internalCIDR: '10.0.0.0/24,fd00::/64'}
- {internalCIDR: 10.0.0.0/24} => spec.eip: Required value
- {eip: e} => spec.internalCIDR: Required value
- {eip: e, internalCIDR: 10.0.0.0/33} => spec.internalCIDR: Invalid value: '10.0.0.0/33': must be a CIDR

OvnEip
+ {}
+ {externalSubnet: external, type: nat, v4Ip: ''} -> {externalSubnet: external, type: lsp, v4Ip: 172.16.0.10}
- {type: fip} => supported values: '', 'lrp', 'lsp', 'nat'
- {v4Ip: 'fd00::1'} => spec.v4Ip
- {v6Ip: 1.2.3.4} => spec.v6Ip
- {macAddress: zz} => spec.macAddress
- {v4Ip: 172.16.0.10} -> {v4Ip: 172.16.0.11} => v4Ip of an external address cannot change
- {v6Ip: 'fd00::1'} -> {v6Ip: 'fd00::2'} => v6Ip of an external address cannot change
- {externalSubnet: a} -> {externalSubnet: b} => externalSubnet of an external address cannot change
- {macAddress: '02:00:00:00:00:01'} -> {macAddress: '02:00:00:00:00:02'} => macAddress of an external address cannot change

OvnFip
+ {ovnEip: e, ipName: web.default}
+ {ovnEip: e, ipType: vip, ipName: v, type: centralized}
+ {ovnEip: e, vpc: red, v4Ip: 10.0.0.2}
- {ipName: web.default} => spec.ovnEip: Required value
- {ovnEip: e} => spec.ipName: Invalid value: null: the address inside is missing
- {ovnEip: e, ipName: i, ipType: pod} => supported values: '', 'vip', 'ip'
- {ovnEip: e, ipName: i, type: local} => supported values: '', 'distributed', 'centralized'
- {ovnEip: e, v4Ip: x} => spec.v4Ip
- {ovnEip: e, v6Ip: x} => spec.v6Ip

OvnDnatRule
+ {ovnEip: e, ipName: web.default, externalPort: '80', internalPort: '8080', protocol: sctp}
- {ipName: i, externalPort: '80', internalPort: '8080'} => spec.ovnEip: Required value
- {ovnEip: e, externalPort: '80', internalPort: '8080'} => the address inside is missing
- {ovnEip: e, ipName: i, internalPort: '8080'} => spec.externalPort: Required value
- {ovnEip: e, ipName: i, externalPort: '80'} => spec.internalPort: Required value
- {ovnEip: e, ipName: i, externalPort: '80', internalPort: '65536'} => spec.internalPort: Invalid value: '65536'
- {ovnEip: e, ipName: i, externalPort: '-1', internalPort: '80'} => spec.externalPort
- {ovnEip: e, ipName: i, externalPort: '80', internalPort: '80', protocol: gre} => must be tcp, udp or sctp

OvnSnatRule
+ {ovnEip: e, vpcSubnet: s}
+ {ovnEip: e, ipName: web.default}
+ {ovnEip: e, vpc: red, v4IpCidr: 10.0.0.0/24, v6IpCidr: 'fd00::1'}
- {vpcSubnet: s} => spec.ovnEip: Required value
- {ovnEip: e} => the addresses inside are missing
- {ovnEip: e, vpcSubnet: s, ipName: i} => vpcSubnet and ipName exclude each other
- {ovnEip: e, v4IpCidr: 'fd00::/64'} => spec.v4IpCidr: Invalid value: 'fd00::/64': must be one IPv4 address or CIDR
- {ovnEip: e, v6IpCidr: 10.0.0.2} => must be one IPv6 address or CIDR

ProviderNetwork
+ {defaultInterface: eth1, customInterfaces: [{interface: eth2, nodes: [a]}], excludeNodes: [b]}
- {} => spec.defaultInterface: Required value
- {defaultInterface: 'eth 1'} => spec.defaultInterface in body should match
- {defaultInterface: an-interface-name} => spec.defaultInterface: Too long
- {defaultInterface: eth1, customInterfaces: [{interface: a/b}]} => spec.customInterfaces[0].interface in body should match

Vlan
+ {provider: net1, id: 0}
+ {provider: net1, id: 4095}
- {id: 10} => spec.provider: Required value
- {provider: net1, id: 4096} => spec.id in body should be less than or equal to 4095
- {provider: net1, vlanId: -1} => spec.vlanId in body should be greater than or equal to 0

QoSPolicy
+ {}
+ {shared: true, bindingType: EIP, bandwidthLimitRules: [{name: in, direction: ingress, rateMax: '100', burstMax: '12.5', matchType: ip, matchValue: src 10.0.0.0/24}]}
+ {bandwidthLimitRules: [{name: in, rateMax: '', matchType: '', matchValue: ''}]}
+ {bindingType: EIP} -> {bindingType: EIP, bandwidthLimitRules: [{name: in, rateMax: '1'}]}
- {bindingType: POD} => supported values: '', 'EIP', 'NATGW'
- {bandwidthLimitRules: [{rateMax: '1'}]} => spec.bandwidthLimitRules[0].name: Required value
- {bandwidthLimitRules: [{name: a, rateMax: 1M}]} => spec.bandwidthLimitRules[0].rateMax: Invalid value: '1M': must be a decimal number
- {bandwidthLimitRules: [{name: a, burstMax: '-1'}]} => spec.bandwidthLimitRules[0].burstMax
- {bandwidthLimitRules: [{name: a, direction: both}]} => supported values: '', 'ingress', 'egress'
- {bandwidthLimitRules: [{name: a, matchType: ip}]} => matchType ip needs a matchValue
- {bandwidthLimitRules: [{name: a, matchType: ip, matchValue: 10.0.0.0/24}]} => must be src or dst, a blank and a CIDR
- {bandwidthLimitRules: [{name: a, matchType: ip, matchValue: src 10.0.0.0}]} => must be src or dst, a blank and a CIDR
- {bandwidthLimitRules: [{name: a, priority: -1}]} => spec.bandwidthLimitRules[0].priority
- {bindingType: EIP} -> {bindingType: NATGW} => the bindingType of a policy cannot change
- {bindingType: EIP} -> {bindingType: EIP, shared: true} => shared cannot change

RouterLBRule
+ {ovnEip: e, ports: [{port: 80, targetPort: 8080, protocol: TCP}], endpoints: [10.0.0.2]}
- {ports: [{port: 80}]} => spec.ovnEip: Required value
- {ovnEip: e, ports: [{port: 0}]} => spec.ports[0].port in body should be greater than or equal to 1
- {ovnEip: e, sessionAffinity: Cookie} => supported values: '', 'None', 'ClientIP'

SwitchLBRule
+ {vip: '10.96.0.9,fd00::9', namespace: default, selector: ['app:web'], sessionAffinity: ClientIP, ports: [{name: http, port: 80, targetPort: 8080}]}
+ {vip: 10.96.0.9, endpoints: [10.0.0.2, 'fd00::2']} -> {vip: 10.96.0.10}
- {ports: [{port: 80}]} => spec.vip: Required value
- {vip: banana} => spec.vip: Invalid value: 'banana': must be an IP address
- {vip: 10.96.0.9, selector: [app=web]} => each must be a label and its value joined by a colon
- {vip: 10.96.0.9, endpoints: [web]} => spec.endpoints
- {vip: 10.96.0.9, ports: [{port: 65536}]} => spec.ports[0].port in body should be less than or equal to 65535
- {vip: 10.96.0.9, ports: [{port: 80, targetPort: -1}]} => spec.ports[0].targetPort
- {vip: 10.96.0.9, ports: [{port: 80, protocol: ICMP}]} => supported values: '', 'TCP', 'UDP', 'SCTP'

SecurityGroup
+ {}
+ {tier: 1, allowSameGroupTraffic: true, ingressRules: [{ipVersion: ipv4, protocol: tcp, priority: 16384, remoteType: address, remoteAddress: 10.0.0.0/24, portRangeMin: 80, portRangeMax: 80, policy: allow}]}
+ {egressRules: [{ipVersion: ipv6, protocol: all, priority: 1, remoteType: address, remoteAddress: 'fd00::2', policy: pass}]}
+ {egressRules: [{ipVersion: ipv4, protocol: icmp, priority: 1, remoteType: securityGroup, remoteSecurityGroup: db, portRangeMin: 0, portRangeMax: 0, policy: drop}]}
- {tier: 2} => spec.tier in body should be less than or equal to 1
- {ingressRules: [{priority: 0}]} => spec.ingressRules[0].priority in body should be greater than or equal to 1
- {ingressRules: [{priority: 16385}]} => spec.ingressRules[0].priority
- {ingressRules: [{ipVersion: v4}]} => supported values: '', 'ipv4', 'ipv6'
- {ingressRules: [{protocol: gre}]} => supported values: '', 'all', 'icmp', 'tcp', 'udp'
- {ingressRules: [{policy: reject}]} => supported values: '', 'allow', 'drop', 'pass'
- {ingressRules: [{remoteType: cidr}]} => supported values: '', 'address', 'securityGroup'
- {ingressRules: [{remoteAddress: web}]} => spec.ingressRules[0].remoteAddress: Invalid value: 'web': must be one IP address or CIDR
- {ingressRules: [{localAddress: web}]} => spec.ingressRules[0].localAddress
- {egressRules: [{portRangeMin: 90, portRangeMax: 80}]} => portRangeMin must not be above portRangeMax
- {egressRules: [{portRangeMax: 65536}]} => spec.egressRules[0].portRangeMax
- {egressRules: [{sourcePortRangeMin: 90, sourcePortRangeMax: 80}]} => sourcePortRangeMin must not be above sourcePortRangeMax
- {egressRules: [{ipVersion: ipv4, remoteAddress: 'fd00::2'}]} => remoteAddress fd00::2 must be of ipVersion ipv4
- {egressRules: [{ipVersion: ipv6, localAddress: 10.0.0.2}]} => localAddress 10.0.0.2 must be of ipVersion ipv6
- {egressRules: [{remoteType: securityGroup}]} => remoteType securityGroup needs a remoteSecurityGroup
- {egressRules: [{remoteType: address}]} => remoteType address needs a remoteAddress

Subnet
+ {cidrBlock: 10.16.0.0/16}
+ {cidrBlock: '10.16.0.0/16, fd00::/64', gateway: '10.16.0.1,fd00::1', excludeIps: [10.16.0.1, 10.16.0.5..10.16.0.9, 'fd00::1..fd00::9', 10.16.8.0/24]}
+ {cidrBlock: 'fd00::/64,10.16.0.0/16', gateway: 10.16.0.1, vpc: '', provider: '', gatewayType: '', protocol: ''}
+ {cidrBlock: 10.16.0.0/16, gateway: '', vpc: '', u2oInterconnectionIP: '', externalEgressGateway: '', natOutgoing: true}
+ {cidrBlock: '', gateway: '', vlan: vlan1, protocol: Mac}
+ {vlan: vlan1}
+ {cidrBlock: 10.16.0.0/16} -> {cidrBlock: 10.17.0.0/16, vpc: red}
+ {cidrBlock: 10.16.0.0/16, externalEgressGateway: 192.168.0.1, natOutgoing: false, policyRoutingPriority: 1001, policyRoutingTableID: 1001}
+ {cidrBlock: 10.16.0.0/16, private: true, allowSubnets: [10.17.0.0/16], natOutgoingPolicyRules: [{action: nat, match: {srcIPs: '10.16.0.1, 10.16.1.0/24', dstIPs: ''}}]}
- {} => spec.cidrBlock: Invalid value: null: cidrBlock is required, unless the subnet is on a vlan
- {cidrBlock: ''} => cidrBlock is required
- {cidrBlock: 10.16.0.0} => spec.cidrBlock: Invalid value: '10.16.0.0': must be a CIDR such as 10.16.0.0/16
- {cidrBlock: '10.16.0.0/16,10.17.0.0/16'} => one IPv4 and one IPv6 CIDR
- {cidrBlock: '10.16.0.0/16,fd00::/64,fd01::/64'} => one IPv4 and one IPv6 CIDR
- {cidrBlock: 10.16.0.0/31} => spec.cidrBlock: Invalid value: '10.16.0.0/31': must leave room for a gateway and a host
- {cidrBlock: 'fd00::/127'} => must leave room for a gateway and a host
- {cidrBlock: 10.16.0.0/16, gateway: 10.17.0.1} => spec.gateway: Invalid value: '10.17.0.1': gateway 10.17.0.1 must lie inside cidrBlock 10.16.0.0/16
- {cidrBlock: 10.16.0.0/16, gateway: 'fd00::1'} => gateway fd00::1 must lie inside cidrBlock
- {cidrBlock: '10.16.0.0/16,fd00::/64', gateway: '10.16.0.1,fd01::1'} => must lie inside cidrBlock
- {cidrBlock: 10.16.0.0/16, gateway: first} => spec.gateway: Invalid value: 'first': must be an IP address
- {cidrBlock: 10.16.0.0/16, u2oInterconnectionIP: 10.17.0.1} => u2oInterconnectionIP 10.17.0.1 must lie inside cidrBlock
- {cidrBlock: 10.16.0.0/16, excludeIps: [10.16.0.1..]} => spec.excludeIps
- {cidrBlock: 10.16.0.0/16, excludeIps: [10.16.0.0/33]} => each must be an IP address, a CIDR, or a range
- {cidrBlock: 10.16.0.0/16, protocol: IPv5} => supported values: '', 'IPv4', 'IPv6', 'Dual', 'Mac'
- {cidrBlock: 10.16.0.0/16, gatewayType: central} => supported values: '', 'distributed', 'centralized'
- {cidrBlock: 10.16.0.0/16, mtu: 65536} => spec.mtu in body should be less than or equal to 65535
- {cidrBlock: 10.16.0.0/16, mtu: -1} => spec.mtu
- {cidrBlock: 10.16.0.0/16, policyRoutingPriority: -1} => spec.policyRoutingPriority
- {cidrBlock: 10.16.0.0/16, policyRoutingTableID: -1} => spec.policyRoutingTableID
- {cidrBlock: 10.16.0.0/16, allowSubnets: [10.17.0.0]} => spec.allowSubnets
- {cidrBlock: 10.16.0.0/16, vips: [x]} => spec.vips
- {cidrBlock: 10.16.0.0/16, externalEgressGateway: x} => spec.externalEgressGateway
- {cidrBlock: 10.16.0.0/16, externalEgressGateway: 192.168.0.1, natOutgoing: true} => externalEgressGateway and natOutgoing exclude each other
- {cidrBlock: 10.16.0.0/16, vlan: v, logicalGateway: true, u2oInterconnection: true} => logicalGateway and u2oInterconnection exclude each other
- {cidrBlock: 10.16.0.0/16, acls: [{action: permit}]} => supported values: 'allow'
- {cidrBlock: 10.16.0.0/16, acls: [{direction: in}]} => supported values: 'to-lport', 'from-lport'
- {cidrBlock: 10.16.0.0/16, acls: [{priority: 32768}]} => spec.acls[0].priority
- {cidrBlock: 10.16.0.0/16, natOutgoingPolicyRules: [{action: drop}]} => supported values: 'nat', 'forward'
- {cidrBlock: 10.16.0.0/16, natOutgoingPolicyRules: [{match: {srcIPs: web}}]} => spec.natOutgoingPolicyRules[0].match.srcIPs
- {cidrBlock: 10.16.0.0/16, natOutgoingPolicyRules: [{match: {dstIPs: '10.0.0.1,'}}]} => spec.natOutgoingPolicyRules[0].match.dstIPs
- {cidrBlock: 10.16.0.0/16, vpc: red} -> {cidrBlock: 10.16.0.0/16, vpc: blue} => spec.vpc: Invalid value: 'blue': a subnet cannot move to another VPC
- {cidrBlock: 10.16.0.0/16, vpc: red} -> {cidrBlock: 10.16.0.0/16} => a subnet cannot move to another VPC

Vip
+ {}
+ {subnet: s, type: switch_lb_vip} -> {subnet: s, type: switch_lb_vip, v4ip: 10.0.0.9, macAddress: '02:00:00:00:00:09'}
- {type: lb} => supported values: '', 'switch_lb_vip', 'kube_host_vm_vip'
- {v4ip: x} => spec.v4ip
- {v6ip: 10.0.0.1} => spec.v6ip
- {macAddress: x} => spec.macAddress
- {selector: [web]} => spec.selector
- {subnet: s} -> {subnet: t} => a virtual IP cannot move to another subnet
- {v4ip: 10.0.0.9} -> {v4ip: 10.0.0.8} => the IPv4 address of a virtual IP cannot change
- {v6ip: 'fd00::9'} -> {v6ip: 'fd00::8'} => the IPv6 address of a virtual IP cannot change
- {macAddress: '02:00:00:00:00:09'} -> {macAddress: '02:00:00:00:00:08'} => the MAC address of a virtual IP cannot change

Vpc
+ {}
+ {staticRoutes: [{cidr: 0.0.0.0/0, nextHopIP: 10.0.0.254, policy: policySrc, ecmpMode: ecmp_symmetric_reply}], policyRoutes: [{priority: 10, match: ip4, action: allow}]}
+ {policyRoutes: [{priority: 32767, match: ip4, action: reroute, nextHopIP: '10.0.0.1, 10.0.0.2,10.0.0.3'}], vpcPeerings: [{remoteVpc: b, localConnectIP: 169.254.0.1/30}]}
+ {bfdPort: {enabled: true, ip: '10.255.255.255,fd00::ff'}}
+ {bfdPort: {enabled: false}}
- {staticRoutes: [{cidr: default}]} => spec.staticRoutes[0].cidr: Invalid value: 'default': must be one IP address or CIDR
- {staticRoutes: [{nextHopIP: 10.0.0.0/24}]} => spec.staticRoutes[0].nextHopIP
- {staticRoutes: [{policy: src}]} => supported values: '', 'policyDst', 'policySrc'
- {staticRoutes: [{ecmpMode: fast}]} => supported values: '', 'ecmp_symmetric_reply'
- {policyRoutes: [{priority: 32768}]} => spec.policyRoutes[0].priority in body should be less than or equal to 32767
- {policyRoutes: [{action: deny}]} => supported values: 'allow', 'drop', 'reroute'
- {policyRoutes: [{action: reroute}]} => action reroute needs a nextHopIP
- {policyRoutes: [{action: reroute, nextHopIP: '10.0.0.1,web'}]} => spec.policyRoutes[0].nextHopIP
- {policyRoutes: [{action: reroute, nextHopIP: '10.0.0.1,we b,10.0.0.2'}]} => must be IP addresses joined by commas
- {vpcPeerings: [{remoteVpc: b, localConnectIP: 169.254.0.1}]} => spec.vpcPeerings[0].localConnectIP
- {bfdPort: {enabled: true}} => an enabled BFD port needs an ip
- {bfdPort: {ip: x}} => spec.bfdPort.ip

VpcDns
+ {vpc: red, subnet: s, replicas: 2}
- {subnet: s} => spec.vpc: Required value
- {vpc: red} => spec.subnet: Required value
- {vpc: red, subnet: s, replicas: 4} => spec.replicas in body should be less than or equal to 3

VpcEgressGateway
+ {externalSubnet: external, policies: [{snat: true, ipBlocks: [10.0.0.0/24]}]}
+ {externalSubnet: external, replicas: 2, externalIPs: ['172.16.0.2,fd00::2', 172.16.0.3], selectors: [{podSelector: {matchLabels: {app: web}}}], bandwidth: {ingress: 100, egress: 1.5Gi}}
+ {externalSubnet: external, policies: [{subnets: [a]}], internalIPPool: p, externalIPs: [], externalIPPool: q} -> {externalSubnet: external, policies: [{subnets: [b]}], replicas: 0}
- {policies: [{subnets: [a]}]} => spec.externalSubnet: Required value
- {externalSubnet: external} => one policy or one selector is needed
- {externalSubnet: external, policies: [], selectors: []} => one policy or one selector is needed
- {externalSubnet: external, policies: [{subnets: [a]}], replicas: 11} => spec.replicas in body should be less than or equal to 10
- {externalSubnet: external, policies: [{subnets: [a]}], replicas: 2, internalIPs: [10.0.0.1]} => internalIPs must have an entry per replica
- {externalSubnet: external, policies: [{subnets: [a]}], replicas: 2, externalIPs: [10.0.0.1]} => externalIPs must have an entry per replica
- {externalSubnet: external, policies: [{subnets: [a]}], internalIPs: [10.0.0.1], internalIPPool: p} => internalIPs and internalIPPool exclude each other
- {externalSubnet: external, policies: [{subnets: [a]}], externalIPs: [10.0.0.1], externalIPPool: p} => externalIPs and externalIPPool exclude each other
- {externalSubnet: external, policies: [{subnets: [a]}], internalIPs: [x]} => spec.internalIPs
- {externalSubnet: external, policies: [{ipBlocks: [x]}]} => spec.policies[0].ipBlocks
- {externalSubnet: external, policies: [{subnets: [a]}], trafficPolicy: Near} => supported values: 'Local', 'Cluster'
- {externalSubnet: external, policies: [{subnets: [a]}], podAntiAffinity: Never} => supported values: 'Required', 'Preferred'
- {externalSubnet: external, policies: [{subnets: [a]}], bfd: {minRX: 0}} => spec.bfd.minRX
- {externalSubnet: external, policies: [{subnets: [a]}], bandwidth: {ingress: fast}} => spec.bandwidth.ingress in body should match
- {externalSubnet: external, policies: [{subnets: [a]}], bandwidth: {egress: -1}} => spec.bandwidth.egress
- {externalSubnet: external, selectors: [{podSelector: {}}]} => podSelector needs matchLabels or matchExpressions
- {externalSubnet: external, selectors: [{namespaceSelector: {}}]} => namespaceSelector needs matchLabels or matchExpressions
- {externalSubnet: external, policies: [{subnets: [a]}], prefix: Bad} => spec.prefix in body should match
- {externalSubnet: external, policies: [{subnets: [a]}], prefix: a} -> {externalSubnet: external, policies: [{subnets: [a]}], prefix: b} => the prefix cannot change
- {externalSubnet: external, policies: [{subnets: [a]}], observability: {conntrack: {log: {events: [middle]}}}} => supported values: 'start', 'end'
- {externalSubnet: external, policies: [{subnets: [a]}], observability: {conntrack: {log: {filters: {include: [{original: {sourcePorts: [{start: 9, end: 8}]}}]}}}}} => start must not be above end
- {externalSubnet: external, policies: [{subnets: [a]}], observability: {conntrack: {log: {filters: {exclude: [{translated: {sourceCIDRs: [x]}}]}}}}} => each must be a CIDR
- {externalSubnet: external, policies: [{subnets: [a]}], observability: {conntrack: {log: {rateLimit: {burst: 0}}}}} => rateLimit.burst

VpcNatGateway
+ {vpc: red, subnet: s, lanIp: 10.0.0.254, selector: ['kubernetes.io/hostname: a'], externalSubnets: [external]}
+ {vpc: red, subnet: s, lanIp: '', routes: [{cidr: 10.0.0.0/8, nextHopIP: gateway}], bgpSpeaker: {enabled: true, asn: 65001, remoteAsn: 65000, neighbors: [10.0.0.1], holdTime: 90s}}
- {lanIp: x} => spec.lanIp
- {replicas: 0} => spec.replicas in body should be greater than or equal to 1
- {bfd: {multiplier: 256}} => spec.bfd.multiplier in body should be less than or equal to 255
- {bfd: {minTX: 3600001}} => spec.bfd.minTX
- {selector: [a]} => spec.selector
- {internalCIDRs: [x]} => spec.internalCIDRs
- {routes: [{cidr: x}]} => spec.routes[0].cidr
- {routes: [{nextHopIP: x}]} => spec.routes[0].nextHopIP: Invalid value: 'x': must be one IP address such as 10.16.0.1, or the word gateway
- {bgpSpeaker: {asn: -1}} => spec.bgpSpeaker.asn
- {bgpSpeaker: {remoteAsn: -1}} => spec.bgpSpeaker.remoteAsn
- {bgpSpeaker: {neighbors: [x]}} => spec.bgpSpeaker.neighbors
- {bgpSpeaker: {holdTime: long}} => spec.bgpSpeaker.holdTime
- {bgpSpeaker: {routerId: x}} => spec.bgpSpeaker.routerId
";

struct Cluster {
    client: Client,
    crds: Vec<CustomResourceDefinition>,
}

impl Cluster {
    async fn start() -> Self {
        let client = apiserver::Server::open(None).unwrap().client();
        let definitions = Api::<CustomResourceDefinition>::all(client.clone());
        let crds = api::v1::crds();
        for crd in &crds {
            definitions.create(&PostParams::default(), crd).await.unwrap();
        }
        Self { client, crds }
    }

    fn objects(&self, kind: &str) -> Api<DynamicObject> {
        let crd = self.crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap_or_else(|| panic!("no kind {kind}"));
        let resource = ApiResource {
            group: "kubeovn.io".into(),
            version: "v1".into(),
            api_version: "kubeovn.io/v1".into(),
            kind: kind.into(),
            plural: crd.spec.names.plural.clone(),
        };
        match crd.spec.scope.as_str() {
            "Namespaced" => Api::default_namespaced_with(self.client.clone(), &resource),
            _ => Api::all_with(self.client.clone(), &resource),
        }
    }
}

/// The message of a refusal.
fn verdict<T>(answer: kube::Result<T>) -> Result<T, String> {
    answer.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        other => panic!("neither admitted nor refused: {other}"),
    })
}

fn object(kind: &str, name: &str, spec: &str) -> DynamicObject {
    let spec: Value = serde_norway::from_str(spec).unwrap_or_else(|e| panic!("{kind} {spec}: {e}"));
    serde_json::from_value(json!({ "apiVersion": "kubeovn.io/v1", "kind": kind, "metadata": { "name": name }, "spec": spec })).unwrap()
}

#[tokio::test]
async fn manifests_that_cannot_work_are_refused_and_others_admitted() {
    let cluster = Cluster::start().await;
    let (mut kind, mut wrong, mut count) = ("", String::new(), 0);
    for (at, line) in VERDICTS.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let Some((sign, case)) = line.split_once(' ') else {
            kind = line;
            continue;
        };
        let (specs, wanted) = case.split_once(" => ").unwrap_or((case, ""));
        assert_eq!(sign == "-", !wanted.is_empty(), "{line}");
        let (first, second) = specs.split_once(" -> ").map_or((specs, None), |(first, second)| (first, Some(second)));
        let (objects, name) = (cluster.objects(kind), format!("case-{at}"));
        let mut answer = verdict(objects.create(&PostParams::default(), &object(kind, &name, first)).await);
        if let Some(second) = second {
            let made = answer.unwrap_or_else(|why| panic!("{kind} {line}: {why}"));
            let mut changed = object(kind, &name, second);
            changed.metadata.resource_version = made.metadata.resource_version;
            answer = verdict(objects.replace(&name, &PostParams::default(), &changed).await);
        }
        count += 1;
        let right = match &answer {
            Ok(_) => sign == "+",
            Err(message) => sign == "-" && message.replace('"', "'").contains(wanted),
        };
        if !right {
            let told = answer.map_or_else(|message| message, |_| "admitted".to_owned());
            writeln!(wrong, "{kind} {line}\n    {told}").unwrap();
        }
    }
    assert!(wrong.is_empty() && count > 200, "{count} manifests:\n{wrong}");
}

#[tokio::test]
async fn a_manifest_with_every_field_is_admitted_and_kept() {
    let cluster = Cluster::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/tests/manifests");
    for crd in &cluster.crds {
        let text = std::fs::read_to_string(folder.join(format!("{}.yaml", crd.spec.names.plural))).unwrap();
        let wanted: DynamicObject = serde_norway::from_str(&text).unwrap();
        let (objects, name) = (cluster.objects(&crd.spec.names.kind), wanted.metadata.name.clone().unwrap());
        let made = verdict(objects.create(&PostParams::default(), &wanted).await).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(made.data["spec"], wanted.data["spec"], "{name}");
        let subresources = crd.spec.versions[0].subresources.as_ref();
        if subresources.is_some_and(|subresources| subresources.status.is_some()) {
            let mut changed = wanted.clone();
            changed.metadata.resource_version = made.metadata.resource_version;
            let changed = verdict(objects.replace_status(&name, &PostParams::default(), &changed).await).unwrap();
            assert_eq!(changed.data["status"], wanted.data["status"], "{name}");
        } else {
            assert_eq!(made.data.get("status"), wanted.data.get("status"), "{name}");
        }
    }
}

#[tokio::test]
async fn an_unknown_field_is_dropped_and_a_null_is_as_good_as_nothing() {
    let cluster = Cluster::start().await;
    let subnets = cluster.objects("Subnet");
    let spec = "{cidrBlock: 10.16.0.0/16, colour: red, gateway: null, acls: [{priority: 1, colour: red}]}";
    let made = subnets.create(&PostParams::default(), &object("Subnet", "a", spec)).await.unwrap();
    assert_eq!(made.data["spec"], json!({ "cidrBlock": "10.16.0.0/16", "acls": [{ "priority": 1 }] }));
}

#[tokio::test]
async fn a_vpc_needs_no_spec_and_a_subnet_does() {
    let cluster = Cluster::start().await;
    let bare = |kind: &str| -> DynamicObject {
        serde_json::from_value(json!({ "apiVersion": "kubeovn.io/v1", "kind": kind, "metadata": { "name": "a" } })).unwrap()
    };
    let made = cluster.objects("Vpc").create(&PostParams::default(), &bare("Vpc")).await.unwrap();
    assert_eq!(made.data["spec"], json!({}));
    let refused = verdict(cluster.objects("Subnet").create(&PostParams::default(), &bare("Subnet")).await).unwrap_err();
    assert!(refused.contains("spec: Required value"), "{refused}");
}

#[tokio::test]
async fn defaults_are_those_of_the_reference() {
    let cluster = Cluster::start().await;
    for (kind, spec, wanted) in [
        ("IptablesDnatRule", "{eip: e, externalPort: '1', internalPort: '1', internalIp: 10.0.0.1}", json!({ "type": "exclusive" })),
        ("IPPool", "{subnet: s, ips: []}", json!({ "enableAddressSet": false })),
        ("VpcDns", "{vpc: red, subnet: s}", json!({ "corefile": "vpc-dns-corefile" })),
        ("Vpc", "{bfdPort: {}}", json!({ "bfdPort": { "enabled": false } })),
        (
            "VpcNatGateway",
            "{bfd: {}}",
            json!({ "replicas": 1, "bfd": { "enabled": false, "minRX": 1000, "minTX": 1000, "multiplier": 3 } }),
        ),
        (
            "VpcEgressGateway",
            "{externalSubnet: e, policies: [{}]}",
            json!({ "replicas": 1, "podAntiAffinity": "Required", "trafficPolicy": "Cluster", "policies": [{ "snat": false }] }),
        ),
    ] {
        let made = cluster.objects(kind).create(&PostParams::default(), &object(kind, "a", spec)).await.unwrap();
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&made.data["spec"][field], value, "{kind}.{field}");
        }
    }
}
