//! Serving requests, at once or from the lines of those who wait, and releasing what was given.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::error::{AllocateError, PoolError, Refused};
use crate::holders::{Holder, Slot};
use crate::ipam::Ipam;
use crate::macs::made;
use crate::queue::{Members, WaitFor};
use crate::request::{Addresses, Claim, Holding, Owner, Request, SubnetName};
use crate::subnet::{Subnet, Taking};

impl Ipam {
    /// Allocates for `owner`. The same request again returns the same holding; a changed one is made anew. On failure the
    /// request waits: see [`Ipam::retry`]. So it does when others wait for the same: first come, first served.
    ///
    /// # Errors
    /// See [`AllocateError`]; nothing was taken.
    pub fn allocate(&mut self, owner: &Owner, request: &Request) -> Result<Holding, AllocateError> {
        // Nearly always so: nobody waits, and nothing must be copied for the queue.
        if self.queue.is_empty() {
            self.touch(owner, request);
            if self.holders.find(owner).is_some() {
                if let Some(holding) = self.satisfied(owner, request) {
                    return Ok(holding);
                }
                self.give_up(owner);
            }
            if let Ok((slot, _)) = self.attempt(owner, request)
                && let Some(holding) = self.holders.get(slot).and_then(|holder| self.describe(holder))
            {
                return Ok(holding);
            }
        }
        let mut held = self.allocate_all(&[(owner.clone(), request.clone())]).map_err(|refused| refused.error)?;
        held.pop().ok_or_else(|| AllocateError::UnknownSubnet(request.subnet.clone()))
    }

    /// Reads what an allocation will look up: see [`crate::table::Table::touch`].
    fn touch(&self, owner: &Owner, request: &Request) -> Option<()> {
        self.holders.touch(owner);
        let subnet = self.subnet(&request.subnet)?;
        let vpc = &subnet.spec.vpc;
        self.vpcs.get(vpc)?.touch(request.mac.unwrap_or_else(|| made(vpc, owner, 0)));
        subnet.touch(request);
        Some(())
    }

    /// Allocates for several NICs: each gets what it asks for, or none gets anything and they wait together. Those that hold
    /// already what they ask for keep it in either case. Returns the holdings in the order of the requests.
    ///
    /// # Errors
    /// The first that cannot be served, and why; nothing was taken.
    pub fn allocate_all(&mut self, wanted: &[(Owner, Request)]) -> Result<Vec<Holding>, Refused> {
        let mut owners = BTreeSet::new();
        if let Some((twice, _)) = wanted.iter().find(|(owner, _)| !owners.insert(owner)) {
            return Err(Refused { owner: twice.clone(), error: AllocateError::AskedTwice(twice.clone()) });
        }
        let place = self.queue.place(wanted);
        for (owner, request) in wanted {
            if self.satisfied(owner, request).is_none() {
                self.give_up(owner);
            }
            if place.is_none() {
                self.queue.leave_alone(owner);
            }
        }
        let result = match self.promised(place, wanted) {
            Some(refused) => Err(refused),
            None => self.attempt_all(wanted),
        };
        match &result {
            Ok(_) => drop(place.and_then(|place| self.queue.leave(place))),
            Err(refused) => drop(self.wait(place, wanted.to_vec(), refused)),
        }
        result
    }

    /// Puts requests into the line for that which one of them lacks, and says which, in what subnet.
    fn wait(&mut self, place: Option<u64>, members: Members, refused: &Refused) -> Option<(SubnetName, WaitFor)> {
        let (_, request) = members.iter().find(|(owner, _)| *owner == refused.owner)?;
        let (subnet, line) = (request.subnet.clone(), WaitFor::of(&refused.error, request));
        self.queue.wait(place, members, subnet.clone(), line.clone());
        Some((subnet, line))
    }

    /// The first that must let others go before.
    fn promised(&self, place: Option<u64>, wanted: &[(Owner, Request)]) -> Option<Refused> {
        wanted.iter().filter(|(owner, _)| self.holders.find(owner).is_none()).find_map(|(owner, request)| {
            let subnet = self.subnet(&request.subnet)?;
            let room = self.queue.is_promised(&request.subnet, place, subnet.rooms(request))?;
            let error = AllocateError::Pool { subnet: request.subnet.clone(), error: room.full(), holder: None };
            Some(Refused { owner: owner.clone(), error })
        })
    }

    /// What `owner` holds, when that is what it asks for.
    fn satisfied(&self, owner: &str, request: &Request) -> Option<Holding> {
        let holder = self.holders.get(self.holders.find(owner)?)?;
        let subnet = self.subnets.get(holder.subnet as usize)?.as_ref()?;
        let fits = subnet.name == request.subnet
            && request.addresses.iter().all(|ip| holder.addresses.contains(*ip))
            && request.mac.is_none_or(|mac| mac == holder.mac)
            && subnet.allows(holder.addresses, request);
        if fits { self.describe(holder) } else { None }
    }

    /// Serves all who hold nothing, or none of them.
    fn attempt_all(&mut self, wanted: &[(Owner, Request)]) -> Result<Vec<Holding>, Refused> {
        let mut done: Vec<(&Owner, Taking)> = Vec::with_capacity(wanted.len());
        let mut held = Vec::with_capacity(wanted.len());
        for (owner, request) in wanted {
            if let Some(holding) = self.holding(owner) {
                held.push(holding);
                continue;
            }
            match self.attempt(owner, request) {
                Ok((slot, taking)) => {
                    done.push((owner, taking));
                    held.extend(self.holders.get(slot).and_then(|holder| self.describe(holder)));
                }
                Err(error) => {
                    while let Some((owner, taking)) = done.pop() {
                        self.undo(owner, taking);
                    }
                    return Err(Refused { owner: owner.clone(), error });
                }
            }
        }
        Ok(held)
    }

    fn attempt(&mut self, owner: &Owner, request: &Request) -> Result<(Slot, Taking), AllocateError> {
        let unknown = || AllocateError::UnknownSubnet(request.subnet.clone());
        let id = self.id(&request.subnet).ok_or_else(unknown)?;
        let subnet = self.subnets.get_mut(id as usize).and_then(Option::as_mut).ok_or_else(unknown)?;
        let macs = self.vpcs.get_mut(&subnet.spec.vpc).ok_or_else(unknown)?;
        if let Some(mac) = request.mac
            && let Some(holder) = macs.holder(mac, &self.holders).and_then(|slot| self.holders.owner(slot))
        {
            return Err(AllocateError::MacInUse { mac, holder, vpc: subnet.spec.vpc.clone() });
        }
        let taking = match subnet.take(request, &self.holders) {
            Ok(taking) => taking,
            Err(error) => {
                let holder = match &error {
                    PoolError::InUse(ip) => subnet.holder(*ip, &self.holders).and_then(|slot| self.holders.owner(slot)),
                    _ => None,
                };
                return Err(AllocateError::Pool { subnet: request.subnet.clone(), error, holder });
            }
        };
        let Some(slot) = self.holders.next() else {
            subnet.undo(taking);
            return Err(AllocateError::Pool { subnet: request.subnet.clone(), error: PoolError::Full("IP"), holder: None });
        };
        let mac = match request.mac {
            Some(mac) => {
                macs.hold(mac, slot, &self.holders);
                mac
            }
            None => macs.make(&subnet.spec.vpc, owner, slot, &self.holders),
        };
        subnet.hold(taking.addresses, slot);
        subnet.held += 1;
        let (owner, addresses) = (owner.clone(), taking.addresses);
        self.holders.insert(Holder { owner, claim: Claim::default(), subnet: id, addresses, mac });
        Ok((slot, taking))
    }

    /// Undoes the last attempt, as if it had not been.
    fn undo(&mut self, owner: &str, taking: Taking) {
        self.unlist(owner, |subnet, slot, addresses| {
            subnet.unhold(addresses, slot);
            subnet.undo(taking);
        });
    }

    /// Takes a holder out of all tables, those of its subnet by `leave`, and says whether the MAC is nobody's now.
    #[inline(always)]
    fn unlist(&mut self, owner: &str, leave: impl FnOnce(&mut Subnet, Slot, Addresses)) -> Option<(Holder, bool)> {
        let slot = self.holders.find(owner)?;
        let known = self.holders.get(slot)?;
        let subnet = self.subnets.get_mut(known.subnet as usize)?.as_mut()?;
        let macs = self.vpcs.get_mut(&subnet.spec.vpc)?;
        macs.touch(known.mac);
        leave(subnet, slot, known.addresses);
        subnet.held -= 1;
        let free = macs.release(known.mac, slot);
        Some((self.holders.remove(slot)?, free))
    }

    /// Takes everything from `owner`, its place in the queue too. Returns what it held.
    pub fn release(&mut self, owner: &str) -> Option<Holding> {
        self.queue.leave_alone(owner);
        self.give_up(owner)
    }

    /// Takes from `owner` what it holds.
    pub(crate) fn give_up(&mut self, owner: &str) -> Option<Holding> {
        let (holder, mac_free) = self.unlist(owner, |subnet, slot, addresses| subnet.give(addresses, slot))?;
        let subnet = self.subnets.get(holder.subnet as usize)?.as_ref()?;
        if !self.queue.is_empty() {
            let mac = mac_free.then(|| (subnet.spec.vpc.clone(), holder.mac));
            self.queue.released(&subnet.name, holder.addresses.iter(), mac);
        }
        self.describe(&holder)
    }

    /// The subnets in which somebody who waits may be served, in the order of their names. A chosen MAC may have become free by
    /// a release in another subnet of the VPC.
    #[must_use]
    pub fn ready(&self) -> Vec<SubnetName> {
        let mut ready: Vec<_> = self.queue.ready().cloned().collect();
        ready.sort_unstable();
        ready
    }

    /// Serves those who wait for `subnet`, in the order of their arrival, after something was released or changed there: to be
    /// called before new requests are made. Returns who got what. Of those that wait for the same only the first is looked at
    /// when it cannot be served, and nobody when nothing happened since.
    pub fn retry(&mut self, subnet: &str) -> Vec<(Owner, Holding)> {
        let mut served = Vec::new();
        let mut heads = self.queue.wake(subnet);
        let mut stopped = BTreeSet::new();
        while let Some(Reverse((arrival, line))) = heads.pop() {
            if stopped.contains(&line) {
                continue;
            }
            let Some(members) = self.queue.members(arrival).cloned() else { continue };
            let next = self.queue.next(subnet, &line, arrival);
            match self.attempt_all(&members) {
                Ok(held) => {
                    self.queue.leave(arrival);
                    served.extend(members.into_iter().map(|(owner, _)| owner).zip(held));
                }
                Err(refused) => {
                    // The next in that line would find the same; those who wait for a change wait for different ones.
                    if let Some((place, refusing)) = self.wait(Some(arrival), members, &refused)
                        && place.as_ref() == subnet
                        && refusing != WaitFor::Change
                    {
                        stopped.insert(refusing);
                    }
                }
            }
            if let Some(next) = next.filter(|_| !stopped.contains(&line)) {
                heads.push(Reverse((next, line)));
            } else if next.is_none() {
                self.queue.sleep(subnet, &line);
            }
        }
        for line in &stopped {
            self.queue.sleep(subnet, line);
        }
        served
    }
}
