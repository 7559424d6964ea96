//! `Vip` → addresses that are held for no single pod.

use std::sync::Arc;

use engine::{Cx, Engine};

use crate::fact::{Fact, FactValue, NicRequest, Problem};
use crate::holder::Identity;
use crate::macs_alone;
use crate::nic::network;
use crate::world::{Name, NicKey, SubnetsByDefault, Vip, VipSpec, World};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Vip>("vip", |cx, name, vip, out| {
        if vip.deleting {
            return;
        }
        let request = vip.spec.clone().and_then(|spec| request(cx, vip, spec));
        let problem = match request {
            Ok(request) => {
                out.say(Fact::Request(NicKey::of_vip(name)), FactValue::Request(request));
                None
            }
            Err(problem) => Some(problem),
        };
        out.say(Fact::VipState(Arc::clone(name)), FactValue::VipState(problem));
    });
}

/// What the status shows is held; else what the user chose, and the rest is free.
fn request(cx: &mut Cx<'_, World>, vip: &Vip, spec: VipSpec) -> Result<NicRequest, Problem> {
    let VipSpec { subnet, addresses, mac, held } = spec;
    let subnet = match subnet {
        Some(subnet) => subnet,
        None => default_subnet(cx)?,
    };
    let network = network(cx, &subnet, "spec.subnet: ")?;
    if network.cidrs.is_empty() {
        return Err(Problem { reason: "NoAddresses", message: format!("spec.subnet: {}", macs_alone::reason(&subnet)) });
    }
    if network.closing && !held {
        return Err(Problem { reason: "SubnetClosing", message: format!("spec.subnet: subnet {subnet:?} is being deleted") });
    }
    let (identity, created) = (Identity::Reserved, vip.created);
    Ok(NicRequest { identity, subnet, addresses, mac, source: None, held, running: false, created })
}

fn default_subnet(cx: &mut Cx<'_, World>) -> Result<Name, Problem> {
    let message = "spec.subnet: is empty, and no subnet is the default".to_owned();
    cx.keys::<SubnetsByDefault>(&()).next().cloned().ok_or(Problem { reason: "NoSubnet", message })
}
