//! Taking in what holders have already, as recorded in Kubernetes: how the allocator is rebuilt.

use crate::error::{AllocateError, PoolError};
use crate::holders::{Holder, Slot};
use crate::ipam::Ipam;
use crate::request::{Addresses, Adopted, Claim, Holding, Owner};

impl Ipam {
    /// Takes in what a holder has with a claim that nobody displaces, and that displaces nobody who has one.
    ///
    /// # Errors
    /// See [`Ipam::adopt_claim`].
    pub fn adopt(&mut self, owner: &Owner, holding: Holding) -> Result<(), AllocateError> {
        self.adopt_claim(owner, &holding, Claim::default()).map(drop)
    }

    /// Takes in what a holder has. An address outside the ranges, or reserved since, is honoured: it is the holder's. Holders of
    /// the same address whose claim is weaker lose everything. A MAC may be another's too.
    ///
    /// # Errors
    /// When the subnet is not known, or somebody with a claim as good holds the address; then nothing changes, and the owner waits
    /// for nothing.
    pub fn adopt_claim(&mut self, owner: &Owner, holding: &Holding, claim: Claim) -> Result<Adopted, AllocateError> {
        let unknown = || AllocateError::UnknownSubnet(holding.subnet.clone());
        let id = self.id(&holding.subnet).ok_or_else(unknown)?;
        let subnet = self.subnets.get(id as usize).and_then(Option::as_ref).ok_or_else(unknown)?;
        let refused = |error, holder| AllocateError::Pool { subnet: holding.subnet.clone(), error, holder };
        let addresses = Addresses::new(&holding.addresses).map_err(|ip| refused(PoolError::SecondOfFamily(ip), None))?;
        let own = self.holders.find(owner);
        let mut weaker: Vec<Slot> = Vec::new();
        for ip in addresses.iter() {
            let Some(slot) = subnet.holder(ip, &self.holders).filter(|slot| Some(*slot) != own) else { continue };
            match self.holders.get(slot) {
                Some(holder) if !claim.beats(holder.claim) => return Err(refused(PoolError::InUse(ip), Some(holder.owner.clone()))),
                _ if weaker.contains(&slot) => {}
                _ => weaker.push(slot),
            }
        }
        self.queue.leave_alone(owner);
        if let Some(holder) = own.and_then(|slot| self.holders.get_mut(slot))
            && holder.subnet == id
            && holder.addresses == addresses
            && holder.mac == holding.mac
        {
            holder.claim = claim;
        } else {
            self.give_up(owner);
            let displaced: Vec<Owner> = weaker.iter().filter_map(|slot| self.holders.owner(*slot)).collect();
            let displaced = displaced.into_iter().filter_map(|owner| self.give_up(&owner).map(|held| (owner, held))).collect();
            self.take_in(owner, holding, addresses, claim);
            return Ok(Adopted { displaced, mac_shared_with: self.mac_shared_with(owner) });
        }
        Ok(Adopted { displaced: Vec::new(), mac_shared_with: self.mac_shared_with(owner) })
    }

    /// Takes in many holders at once, the strongest claims first, so that the outcome does not depend on their order. Returns
    /// what became of each, in the order of their claims.
    pub fn adopt_all(&mut self, mut records: Vec<(Owner, Holding, Claim)>) -> Vec<(Owner, Result<Adopted, AllocateError>)> {
        records.sort_unstable_by(|(a, _, x), (b, _, y)| (!x.running, x.age, a).cmp(&(!y.running, y.age, b)));
        let adopt = |(owner, holding, claim): (Owner, Holding, Claim)| {
            let adopted = self.adopt_claim(&owner, &holding, claim);
            (owner, adopted)
        };
        records.into_iter().map(adopt).collect()
    }

    fn take_in(&mut self, owner: &Owner, holding: &Holding, addresses: Addresses, claim: Claim) -> Option<()> {
        let (id, slot) = (self.id(&holding.subnet)?, self.holders.next()?);
        let subnet = self.subnets.get_mut(id as usize)?.as_mut()?;
        for ip in addresses.iter() {
            subnet.adopt(ip, slot);
        }
        self.vpcs.get_mut(&subnet.spec.vpc)?.hold(holding.mac, slot, &self.holders);
        subnet.held += 1;
        self.holders.insert(Holder { owner: owner.clone(), claim, subnet: id, addresses, mac: holding.mac });
        Some(())
    }

    /// Who holds the same MAC as `owner` in the VPC, which only adopted holders do.
    #[must_use]
    pub fn mac_shared_with(&self, owner: &str) -> Option<Owner> {
        let slot = self.holders.find(owner)?;
        let holder = self.holders.get(slot)?;
        let vpc = &self.subnets.get(holder.subnet as usize)?.as_ref()?.spec.vpc;
        self.holders.owner(self.vpcs.get(vpc)?.shared_with(holder.mac, slot)?)
    }
}
