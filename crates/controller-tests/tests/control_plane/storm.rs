//! A controller that is killed again and again while pods come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::view::PodView;
use api::{annotations, v1};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Controller, Database, Mirror, PATIENCE, cluster, create_pod, note, pods, started_again, until, within};

/// Creations and deletions of a storm.
const STEPS: usize = 500;
/// How often the controller is killed meanwhile.
const KILLS: usize = 10;

/// xorshift64*: numbers that look random, and are the same whenever the seed is.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % limit
    }
}

/// Creates and deletes pods, the more gone the fewer there are; yields the names of those that are left.
async fn storm(client: Client, seed: u64) -> BTreeSet<String> {
    let mut random = Random(seed);
    let (mut alive, mut names) = (BTreeSet::new(), 0..);
    for _ in 0..STEPS {
        if alive.is_empty() || random.below(5) < 3 {
            let name = format!("p{}", names.next().unwrap());
            // Some want one address, some one MAC; most take what comes.
            match random.below(12) {
                0 => create_pod(&client, &name, &[(annotations::IP_ADDRESS, "10.30.0.77")]).await,
                1 => create_pod(&client, &name, &[(annotations::MAC_ADDRESS, "02:00:00:00:00:77")]).await,
                _ => create_pod(&client, &name, &[]).await,
            }
            alive.insert(name);
        } else {
            let name = alive.iter().nth(random.below(alive.len())).unwrap().clone();
            alive.remove(&name);
            pods(&client).delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
        }
        if random.below(4) == 0 {
            sleep(Duration::from_millis(random.below(20) as u64)).await;
        }
    }
    alive
}

/// What the API server says of pods: address and MAC of each that was told them.
async fn told(client: &Client) -> BTreeMap<String, (String, String)> {
    let record = |pod: &PodView| Some((note(pod, annotations::IP_ADDRESS)?, note(pod, annotations::MAC_ADDRESS)?));
    let list = pods(client).list(&ListParams::default()).await.unwrap();
    list.items.iter().filter(|pod| note(pod, annotations::ALLOCATED).is_some()).map(|pod| (pod.name_any(), record(pod).unwrap())).collect()
}

/// No address and no MAC has two holders among the pods, nor among the ports.
async fn nothing_is_held_twice(client: &Client, mirror: &Mirror) {
    let told = told(client).await;
    let (mut addresses, mut macs) = (BTreeMap::new(), BTreeMap::new());
    for (pod, (address, mac)) in &told {
        assert_eq!(addresses.insert(address, pod), None, "{address} twice");
        assert_eq!(macs.insert(mac, pod), None, "{mac} twice");
    }
    let ports = mirror.ports();
    let mut seen = BTreeSet::new();
    for addresses in ports.values().filter(|addresses| *addresses != "router") {
        assert!(addresses.split(' ').all(|part| seen.insert(part)), "{addresses} twice: {ports:#?}");
    }
}

async fn subnet(client: &Client) {
    let spec = v1::SubnetSpec {
        cidr_block: Some("10.30.0.0/24".to_owned()),
        namespaces: Some(vec!["default".to_owned()]),
        ..v1::SubnetSpec::default()
    };
    let subnets: Api<v1::Subnet> = Api::all(client.clone());
    subnets.create(&PostParams::default(), &v1::Subnet::new("storm", spec)).await.unwrap();
}

/// What must hold when all is quiet again, however it came about.
async fn quiet(client: &Client, database: &Database, mirror: &mut Mirror, alive: &BTreeSet<String>) {
    // Of those that want one address, and of those that want one MAC, one has it; all others are served.
    let wants = |pod: &Pod, key: &str| pod.annotations().contains_key(key) && !pod.annotations().contains_key(annotations::ALLOCATED);
    let deadline = Instant::now() + PATIENCE;
    let told = loop {
        let told = told(client).await;
        let list = Api::<Pod>::namespaced(client.clone(), "default").list(&ListParams::default()).await.unwrap();
        let waits = |pod: &&Pod| wants(pod, annotations::IP_ADDRESS) || wants(pod, annotations::MAC_ADDRESS);
        let waiting = list.items.iter().filter(waits).count();
        if told.len() + waiting == alive.len() {
            break told;
        }
        assert!(Instant::now() < deadline, "not served: {:?}", alive.iter().filter(|name| !told.contains_key(*name)).collect::<Vec<_>>());
        sleep(Duration::from_millis(20)).await;
    };
    // Each has a port with what it was told, its `IP` object, and nothing else has either.
    let wanted: BTreeMap<_, _> = told.iter().map(|(pod, (address, mac))| (format!("{pod}.default"), format!("{mac} {address}"))).collect();
    mirror
        .until("ports are those of pods", |mirror| {
            let mut ports = mirror.ports();
            ports.retain(|_, addresses| addresses != "router");
            ports == wanted
        })
        .await;
    let ips: Api<v1::Ip> = Api::all(client.clone());
    let shown = |ip: &v1::Ip| {
        (ip.name_any(), format!("{} {}", ip.spec.mac_address.clone().unwrap_or_default(), ip.spec.ip_address.clone().unwrap_or_default()))
    };
    let records = async {
        while ips.list(&ListParams::default()).await.unwrap().items.iter().map(shown).collect::<BTreeMap<_, _>>() != wanted {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, records).await.expect("`IP` objects are those of pods");
    #[allow(clippy::cast_precision_loss, reason = "at most 253")]
    let used = told.len() as f64;
    let counts = |s: &v1::Subnet| {
        let status = s.status.clone().unwrap_or_default();
        status.v4_using_ips == Some(used) && status.v4_available_ips == Some(253.0 - used)
    };
    until(&Api::<v1::Subnet>::all(client.clone()), "storm", "counts equal what is held", counts).await;
    mirror.catch_up(database).await;
    nothing_is_held_twice(client, mirror).await;
}

#[test]
fn killed_at_random_instants_in_a_storm_nothing_is_held_twice_nothing_leaks_and_a_restart_writes_nothing() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        subnet(&client).await;
        let seed = std::env::var("STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x05ee_d0f5_7014);
        println!("STORM_SEED={seed}");
        let mut random = Random(seed ^ 0xdead_beef);
        let storm = tokio::spawn(storm(client.clone(), seed));
        let mut controller = Controller::start(&client, &database);
        let mut during = 0;
        for _ in 0..KILLS {
            sleep(Duration::from_millis(20 + random.below(150) as u64)).await;
            controller.kill().await;
            during += usize::from(!storm.is_finished());
            nothing_is_held_twice(&client, &mirror).await;
            while let Ok(event) = mirror.events.try_recv() {
                mirror.take(event);
            }
            controller = Controller::start(&client, &database);
        }
        println!("{during} of {KILLS} kills were during the storm");
        let alive = storm.await.unwrap();
        quiet(&client, &database, &mut mirror, &alive).await;

        // Once more when all is quiet.
        controller.kill().await;
        let controller = started_again(&client, &database, &mut mirror).await;

        // Nothing leaks: without pods, no port, no record, and every address is free.
        let every = DeleteParams::default().grace_period(0);
        for pod in pods(&client).list(&ListParams::default()).await.unwrap().items {
            pods(&client).delete(&pod.name_any(), &every).await.unwrap();
        }
        quiet(&client, &database, &mut mirror, &BTreeSet::new()).await;
        controller.stop().await;
    });
}
