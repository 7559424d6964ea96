//! The objects of a bench: nodes, namespaces with a subnet each, and pods as large as those of real clusters; also as the
//! controller leaves them.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::ensure;
use api::DEFAULT_VPC;
use api::annotations::{self, NODE_LABEL, RESERVED_LABEL, SUBNET_LABEL};
use serde_json::{Value, json};

/// Label that all of them carry.
pub const LABEL: &str = "ferrovia.io/bench";

/// Where subnets are taken from: apart from the range of the default subnet.
const FROM: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const ROOM: u32 = 1 << 23;

/// Words of a pod, so that its size is what was asked for.
const PADDING: &str = "FEATURE_FLAGS=checkout:on,search:on,recommendations:off,billing:v2,";

/// How many of what, and how large.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: u32,
    pub subnets: u32,
    pub prefix: u8,
    /// Bytes by which a pod would be too small.
    pub padding: usize,
}

impl Shape {
    /// Subnets that hold `pods` pods and half as many more.
    pub fn new(nodes: u32, subnets: u32, pods: u32) -> anyhow::Result<Self> {
        let each = pods.div_ceil(subnets);
        // The network, its gateway and its broadcast address are nobody's.
        let hosts = (each + each / 2 + 32).next_power_of_two();
        ensure!(
            hosts.checked_mul(subnets).is_some_and(|all| all <= ROOM),
            "--pods {pods} on --subnets {subnets}: 10.128.0.0/9 has no room for subnets of {hosts} addresses each"
        );
        let prefix = u8::try_from(hosts.leading_zeros() + 1)?;
        Ok(Self { nodes, subnets, prefix, padding: 0 })
    }

    pub fn namespace(&self, number: u32) -> String {
        format!("bench-{}", number % self.subnets)
    }

    pub fn namespace_object(&self, number: u32) -> Value {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace(number), "labels": { LABEL: "true" } } })
    }

    fn network(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(FROM.to_bits() + ((number % self.subnets) << (32 - self.prefix)))
    }

    /// The subnet of the namespace of the same name.
    pub fn subnet_object(&self, number: u32) -> Value {
        let (network, name) = (self.network(number), self.namespace(number));
        json!({
            "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": name, "labels": { LABEL: "true" } },
            "spec": { "cidrBlock": format!("{network}/{}", self.prefix), "namespaces": [name] },
        })
    }

    pub fn node(&self, number: u32) -> String {
        format!("bench-node-{}", number % self.nodes)
    }

    pub fn node_address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 1).to_bits() + number).into()
    }

    pub fn node_object(&self, number: u32) -> Value {
        let name = self.node(number);
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": { LABEL: "true", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" } },
            "status": { "addresses": [
                { "type": "InternalIP", "address": Self::node_address(number).to_string() }, { "type": "Hostname", "address": name },
            ] },
        })
    }

    /// A pod of a deployment, bound already, with what its kubelet says of it.
    pub fn pod(&self, name: &str, number: u32) -> Value {
        let mut pod = pod(name, &self.namespace(number), &self.node(number));
        let flags: String = PADDING.chars().cycle().take(self.padding).collect();
        pod["spec"]["containers"][0]["env"][0]["value"] = flags.into();
        pod["status"] = pod_status(name, number);
        pod
    }

    /// Address and MAC of a pod that shows them.
    fn allocation(&self, number: u32) -> (Ipv4Addr, String) {
        // Network and gateway come first.
        let address = Ipv4Addr::from_bits(self.network(number).to_bits() + number / self.subnets + 2);
        let [a, b, c, d] = number.to_be_bytes();
        (address, format!("02:01:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
    }

    /// The pod as the controller leaves it.
    pub fn recorded_pod(&self, name: &str, number: u32) -> Value {
        let mut pod = self.pod(name, number);
        let (network, (address, mac)) = (self.network(number), self.allocation(number));
        let notes = [
            (annotations::ALLOCATED, "true".to_owned()),
            (annotations::ROUTED, "true".to_owned()),
            (annotations::IP_ADDRESS, address.to_string()),
            (annotations::MAC_ADDRESS, mac),
            (annotations::CIDR, format!("{network}/{}", self.prefix)),
            (annotations::GATEWAY, Ipv4Addr::from_bits(network.to_bits() + 1).to_string()),
            (annotations::LOGICAL_SWITCH, self.namespace(number)),
            (annotations::LOGICAL_ROUTER, DEFAULT_VPC.to_owned()),
            (annotations::POD_NIC_TYPE, "veth-pair".to_owned()),
        ];
        for (key, value) in notes {
            pod["metadata"]["annotations"][key] = value.into();
        }
        pod
    }

    /// The pod's `IP` object as the controller makes it.
    pub fn ip_object(&self, name: &str, number: u32) -> Value {
        let (namespace, node, (address, mac)) = (self.namespace(number), self.node(number), self.allocation(number));
        json!({
            "apiVersion": "kubeovn.io/v1", "kind": "IP",
            "metadata": {
                "name": format!("{name}.{namespace}"),
                "labels": { SUBNET_LABEL: namespace, NODE_LABEL: node, RESERVED_LABEL: "false" },
            },
            "spec": {
                "podName": name, "namespace": namespace, "subnet": namespace, "nodeName": node, "podType": "",
                "ipAddress": address, "v4IpAddress": address, "v6IpAddress": "", "macAddress": mac,
            },
        })
    }
}

/// A subnet that is made to see when everything before it has been looked at.
pub fn marker(number: u32) -> (String, Value) {
    let name = format!("bench-marker-{number}");
    let object = json!({
        "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": name, "labels": { LABEL: "true" } },
        "spec": { "cidrBlock": format!("10.127.{number}.0/24") },
    });
    (name, object)
}

fn pod(name: &str, namespace: &str, node: &str) -> Value {
    let reference = |field: &str| json!({ "fieldRef": { "apiVersion": "v1", "fieldPath": field } });
    let secret = |key: &str| json!({ "secretKeyRef": { "name": "web-credentials", "key": key } });
    let probe = |path: &str| {
        json!({
            "httpGet": { "path": path, "port": "http", "scheme": "HTTP", "httpHeaders": [{ "name": "X-Probe", "value": "kubelet" }] },
            "initialDelaySeconds": 5, "timeoutSeconds": 2, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
        })
    };
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {
                LABEL: "true", "app.kubernetes.io/name": "web", "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "4.17.2",
                "app.kubernetes.io/managed-by": "Helm", "pod-template-hash": "6c8d7f9b5d", "tier": "frontend",
            },
            "annotations": {
                "checksum/config": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "checksum/secret": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
                "prometheus.io/scrape": "true", "prometheus.io/port": "9090", "prometheus.io/path": "/metrics",
            },
        },
        "spec": {
            "nodeName": node, "serviceAccountName": "web", "terminationGracePeriodSeconds": 0, "enableServiceLinks": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [
                {
                    "name": "web", "image": "registry.example.com/shop/web:4.17.2", "imagePullPolicy": "IfNotPresent",
                    "args": ["--listen=:8080", "--metrics=:9090", "--log-format=json", "--shutdown-timeout=20s"],
                    "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "metrics", "containerPort": 9090 }],
                    "env": [
                        { "name": "FEATURES", "value": "" },
                        { "name": "POD_NAME", "valueFrom": reference("metadata.name") },
                        { "name": "POD_IP", "valueFrom": reference("status.podIP") },
                        { "name": "DATABASE_USER", "valueFrom": secret("user") },
                        { "name": "DATABASE_PASSWORD", "valueFrom": secret("password") },
                        { "name": "DATABASE_URL", "value": "postgres://orders.database.svc.cluster.local:5432/orders?sslmode=verify-full" },
                    ],
                    "resources": { "requests": { "cpu": "250m", "memory": "256Mi" }, "limits": { "memory": "512Mi" } },
                    "volumeMounts": [mount("config", "/etc/web"), mount("certificates", "/etc/certificates"), mount("token", "/var/run/secrets/kubernetes.io/serviceaccount")],
                    "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
                    "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } },
                },
            ],
            "volumes": [
                { "name": "config", "configMap": { "name": "web", "defaultMode": 420 } },
                { "name": "certificates", "secret": { "secretName": "web-certificates", "defaultMode": 420 } },
                { "name": "token", "projected": { "defaultMode": 420, "sources": [
                    { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                    { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                ] } },
            ],
            "tolerations": [
                { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
                { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
            ],
        },
    })
}

/// What a kubelet says of the pod.
pub fn pod_status(name: &str, number: u32) -> Value {
    let at = "2026-01-02T03:04:05Z";
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": at });
    let container = |container: &str, image: &str| {
        json!({
            "name": container, "image": image, "ready": true, "started": true, "restartCount": 0, "lastState": {},
            "imageID": format!("{image}@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
            "containerID": format!("containerd://60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f{number:010x}"),
            "state": { "running": { "startedAt": at } },
        })
    };
    let host = Shape::node_address(number % 1000);
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({
        "phase": "Running", "qosClass": "Burstable", "startTime": at, "hostIP": host, "hostIPs": [{ "ip": host }],
        "message": format!("{name} runs"),
        "conditions": conditions,
        "containerStatuses": [container("web", "registry.example.com/shop/web:4.17.2")],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_lie_side_by_side_and_have_room() {
        let shape = Shape::new(1000, 100, 150_000).unwrap();
        assert_eq!(shape.subnet_object(0)["spec"]["cidrBlock"], "10.128.0.0/20");
        assert_eq!(shape.subnet_object(99)["spec"]["cidrBlock"], "10.134.48.0/20");
        assert!(Shape::new(1, 100_000, 10_000_000).is_err());
    }
}
