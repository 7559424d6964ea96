//! Live migration of a virtual machine, as KubeVirt's objects tell of it.

use api::annotations;
use api::view::VirtualMachineInstanceView;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::{Timestamp, ToSpan as _};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use ovsdb_types::nb::{logical_switch_port, port_group};
use serde_json::{Value, json};

use crate::addresses::serve_kubevirt;
use crate::harness::{Controller, Mirror, allocated, cluster, delete_pod, note, within};

/// A pod of the machine.
async fn launch(client: &Client, name: &str, node: &str, instance: &str, job: Option<&str>) {
    let owner = json!({ "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm", "uid": instance });
    let labels = job.map(|job| json!({ "kubevirt.io/migrationJobUID": job }));
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "ownerReferences": [owner], "labels": labels },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "none" }] },
    }))
    .unwrap();
    Api::<Pod>::namespaced(client.clone(), "default").create(&PostParams::default(), &pod).await.unwrap();
}

impl Mirror {
    /// Where the machine's port may be, and whether it is in the group of those that migrate.
    fn place(&self) -> Option<(String, bool)> {
        let port = self.replica.rows(logical_switch_port::TABLE).find(|row| row.text(logical_switch_port::NAME) == "vm.default")?;
        let options = port.get(logical_switch_port::OPTIONS)?;
        let chassis = options.get("requested-chassis")?;
        assert_eq!(options.get("activation-strategy"), chassis.contains(',').then_some("rarp"), "{options:?}");
        let group = self.replica.rows(port_group::TABLE).find(|row| row.text(port_group::NAME) == "migrating");
        let has = |group: ovsdb_types::Row<'_>| {
            group.get(port_group::PORTS).is_some_and(|ports| ports.atoms().iter().any(|atom| atom.as_uuid() == Some(port.uuid)))
        };
        Some((chassis.to_owned(), group.is_some_and(has)))
    }

    async fn until_at(&mut self, chassis: &str, migrating: bool) {
        let what = format!("the port at {chassis}, migrating: {migrating}");
        self.until(&what, |m| m.place() == Some((chassis.to_owned(), migrating))).await;
    }
}

#[test]
fn a_machine_migrates_with_its_address_and_one_that_fails_to_stays() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        serve_kubevirt(&client).await;
        for (node, chassis) in [("node1", "c1"), ("node2", "c2")] {
            let node = json!({ "metadata": { "name": node, "annotations": { annotations::CHASSIS: chassis } } });
            Api::<Node>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        }
        let controller = Controller::start(&client, &database);
        let resource = ApiResource::erase::<VirtualMachineInstanceView>(&());
        let instances: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
        let instance = instances.create(&PostParams::default(), &DynamicObject::new("vm", &resource)).await.unwrap().uid().unwrap();
        let says = async |node: &str, migration: Value| {
            let patch = Patch::Merge(json!({ "status": { "nodeName": node, "migrationState": migration } }));
            instances.patch("vm", &PatchParams::default(), &patch).await.unwrap();
        };
        let record = |pod: &api::view::PodView| (note(pod, annotations::IP_ADDRESS).unwrap(), note(pod, annotations::MAC_ADDRESS).unwrap());

        launch(&client, "virt-launcher-vm-a", "node1", &instance, None).await;
        let before = record(&allocated(&client, "virt-launcher-vm-a").await);
        mirror.until_at("c1", false).await;
        // Given up before it began.
        launch(&client, "virt-launcher-vm-b", "node2", &instance, Some("b")).await;
        mirror.until_at("c1,c2", true).await;
        assert_eq!(record(&allocated(&client, "virt-launcher-vm-b").await), before);
        delete_pod(&client, "virt-launcher-vm-b").await;
        mirror.until_at("c1", false).await;
        // Failed.
        launch(&client, "virt-launcher-vm-c", "node2", &instance, Some("c")).await;
        says("node1", json!({ "migrationUid": "c", "sourceNode": "node1", "targetNode": "node2" })).await;
        mirror.until_at("c1,c2", true).await;
        says("node1", json!({ "completed": true, "failed": true })).await;
        mirror.until_at("c1", false).await;
        delete_pod(&client, "virt-launcher-vm-c").await;

        // Arrived, 18 of 20 seconds ago: connections are let through for a while yet.
        launch(&client, "virt-launcher-vm-d", "node2", &instance, Some("d")).await;
        mirror.until_at("c1,c2", true).await;
        assert_eq!(record(&allocated(&client, "virt-launcher-vm-d").await), before);
        let ended = Timestamp::now().checked_sub(18.seconds()).unwrap().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        says("node2", json!({ "migrationUid": "d", "completed": true, "failed": false, "endTimestamp": ended })).await;
        mirror.until_at("c2", true).await;
        delete_pod(&client, "virt-launcher-vm-a").await;
        mirror.until_at("c2", false).await;
        let port = |m: &Mirror| m.ports().get("vm.default").cloned();
        assert_eq!(port(&mirror), Some(format!("{} {}", before.1, before.0)));
        controller.stop().await;
    });
}
