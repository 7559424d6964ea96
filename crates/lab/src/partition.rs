//! Faults of the physical network: a place cut off from everybody, or only from the central services.

use linux::nft::expr::{Expression, NamedExpression, Payload, PayloadField};
use linux::nft::schema::{Chain, NfListObject, Rule};
use linux::nft::stmt::{Match, Operator, Statement};
use linux::nft::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use linux::{Handle, LinkChange, Netns, display_mac, nft};

use crate::{Lab, Place};

/// From whom a place is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// From everybody: its link is down.
    Everybody,
    /// From the hosts of OVN's central services, which also have the API server.
    Central,
}

impl Lab {
    /// Cuts a place off.
    ///
    /// # Errors
    /// When the lab has no such place.
    pub async fn partition(&self, place: Place, cut: Cut) -> anyhow::Result<()> {
        self.check_place(place)?;
        let fabric = self.layout.netns(Place::Fabric)?;
        match cut {
            Cut::Everybody => set_link(&fabric, place, false).await,
            Cut::Central => {
                let others = || self.parameters.central_places().filter(move |other| *other != place);
                // Frames are dropped where they enter the switch: those of the place, and those for it.
                let pairs = others().flat_map(|other| [(place, other), (other, place)]);
                let name = table(place);
                let mut content = Vec::new();
                for port in std::iter::once(place).chain(others()) {
                    content.push(NfListObject::Chain(Chain {
                        family: NfFamily::NetDev,
                        table: name.clone().into(),
                        name: port.to_string().into(),
                        _type: Some(NfChainType::Filter),
                        hook: Some(NfHook::Ingress),
                        prio: Some(0),
                        dev: Some(port.to_string().into()),
                        policy: Some(NfChainPolicy::Accept),
                        ..Chain::default()
                    }));
                }
                content.extend(pairs.map(|(from, to)| drop_frames(&name, from, to)));
                Ok(nft::replace_table(&fabric, NfFamily::NetDev, &name, content)?)
            }
        }
    }

    /// Undoes what [`Lab::partition`] did, for one place or for all.
    ///
    /// # Errors
    /// When the lab has no such place.
    pub async fn heal(&self, place: Option<Place>) -> anyhow::Result<()> {
        let fabric = self.layout.netns(Place::Fabric)?;
        let places: Vec<_> = match place {
            Some(place) => {
                self.check_place(place)?;
                vec![place]
            }
            None => self.parameters.hosts().collect(),
        };
        for place in places {
            nft::delete_table(&fabric, NfFamily::NetDev, &table(place))?;
            set_link(&fabric, place, true).await?;
        }
        Ok(())
    }

    fn check_place(&self, place: Place) -> anyhow::Result<()> {
        let known: Vec<_> = self.parameters.hosts().map(|place| place.to_string()).collect();
        anyhow::ensure!(self.parameters.hosts().any(|host| host == place), "{place}: expected one of {}", known.join(", "));
        Ok(())
    }
}

fn table(place: Place) -> String {
    format!("cut-{place}")
}

async fn set_link(fabric: &Netns, place: Place, up: bool) -> anyhow::Result<()> {
    let handle = Handle::open(fabric)?;
    let port = handle.index(&place.to_string()).await?;
    Ok(handle.change(port, LinkChange { up: Some(up), no_link_local: true, ..LinkChange::default() }).await?)
}

fn drop_frames(table: &str, from: Place, to: Place) -> NfListObject<'_> {
    let mac = to.mac().map(display_mac).unwrap_or_default();
    let field = PayloadField { protocol: "ether".into(), field: "daddr".into() };
    let destination = Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)));
    let matches = Match { left: destination, right: Expression::String(mac.into()), op: Operator::EQ };
    NfListObject::Rule(Rule {
        family: NfFamily::NetDev,
        table: table.into(),
        chain: from.to_string().into(),
        expr: vec![Statement::Match(matches), Statement::Drop(None)].into(),
        ..Rule::default()
    })
}
