//! Random histories of one node: attached, detached, looked at, and everything killed at any instant.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lab::runtime::Attachment;
use tokio::time::timeout;

use super::{NODE1, Nodes, Random, addresses, done, with_nodes};

const STEPS: usize = 1000;
const PODS: usize = 20;
const SEED: u64 = 20_260_101;
/// Within this a plugin or an agent is killed, in ms: longer than most calls take.
const INSTANT: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Attached,
    Detached,
    /// Somebody was killed meanwhile.
    Unknown,
}

/// A pod, in the sandbox that it has at the moment.
struct Life {
    attachment: Attachment,
    state: State,
    address: Option<IpAddr>,
    sandboxes: usize,
}

#[test]
fn after_a_thousand_random_steps_and_crashes_the_node_is_as_before() {
    println!("{STEPS} steps over {PODS} pods, seed {SEED}");
    with_nodes(1, async |nodes| {
        let before = nodes.observe(NODE1).await;
        let pods = nodes.pods(NODE1, "p", PODS).await;
        let attached =
            |attachment: &Attachment| Life { attachment: attachment.clone(), state: State::Detached, address: None, sandboxes: 0 };
        let mut lives: Vec<Life> = pods.iter().map(attached).collect();
        let (mut random, mut counts) = (Random(SEED), BTreeMap::<&str, usize>::new());
        for step in 0..STEPS {
            let life = &mut lives[random.below(PODS)];
            let name = life.attachment.args[2].1.clone();
            let what = nodes.take_step(&mut random, life).await.unwrap_or_else(|error| panic!("step {step}, pod {name}: {error:#}"));
            *counts.entry(what).or_default() += 1;
        }
        println!("{counts:?}");
        for life in &lives {
            nodes.detach(NODE1, &life.attachment).await;
            life.attachment.delete_sandbox().unwrap();
        }
        nodes.runtime(NODE1).dismiss(&nodes.client, &pods).await.unwrap();
        nodes.comes_back(NODE1, &before).await;
    });
}

impl Nodes<'_> {
    /// One step of a pod's life; yields what it was.
    async fn take_step(&self, random: &mut Random, life: &mut Life) -> anyhow::Result<&'static str> {
        let (runtime, network) = (self.runtime(NODE1), self.network());
        let soon = Duration::from_millis(random.below(INSTANT) as u64);
        Ok(match random.below(100) {
            0..35 => {
                life.added(&done(runtime.add(&network, &life.attachment).await?));
                "added"
            }
            35..60 => {
                done(runtime.del(&network, &life.attachment).await?);
                life.state = State::Detached;
                "deleted"
            }
            60..75 => {
                let answer = runtime.check(&network, &life.attachment).await?;
                match life.state {
                    State::Attached => drop(done(answer)),
                    State::Detached => anyhow::ensure!(answer.ok().is_err(), "CHECK finds what is not attached: {answer:?}"),
                    State::Unknown => {}
                }
                "checked"
            }
            75..87 => {
                life.state = State::Unknown;
                // Dropped, it is killed.
                if let Ok(answer) = timeout(soon, runtime.add(&network, &life.attachment)).await {
                    life.added(&done(answer?));
                }
                "plugin killed in ADD"
            }
            87..94 => {
                life.state = State::Unknown;
                if let Ok(answer) = timeout(soon, runtime.del(&network, &life.attachment)).await {
                    done(answer?);
                    life.state = State::Detached;
                }
                "plugin killed in DEL"
            }
            94..97 => {
                // As a kubelet does that gave up on a sandbox: another one first, and then the old one goes.
                life.sandboxes += 1;
                let (mut next, old) = (life.attachment.clone(), life.attachment.clone());
                next.container = format!("{}-{}", life.attachment.args[4].1, life.sandboxes);
                next.netns = Some(linux::netns::path(runtime.sandbox(&next.container).await?.name()));
                life.attachment = next;
                life.added(&done(runtime.add(&network, &life.attachment).await?));
                done(runtime.del(&network, &old).await?);
                old.delete_sandbox()?;
                done(runtime.check(&network, &life.attachment).await?);
                "moved to another sandbox"
            }
            _ => {
                life.state = State::Unknown;
                let killed = async {
                    tokio::time::sleep(soon).await;
                    self.kill("agent@node1").await;
                };
                let (added, ()) = tokio::join!(runtime.add(&network, &life.attachment), killed);
                if let Ok(result) = added?.ok() {
                    life.added(&result);
                }
                self.restart("agent@node1").await;
                "agent killed in ADD"
            }
        })
    }
}

impl Life {
    /// A pod has one address for all its life.
    fn added(&mut self, result: &serde_json::Value) {
        let address = addresses(result)[0];
        assert_eq!(*self.address.get_or_insert(address), address);
        self.state = State::Attached;
    }
}
