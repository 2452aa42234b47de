//! The cluster's authorities as they are committed and kept: their certificates. Their keys go from
//! voter to voter and are never committed.

use std::{fmt, time::SystemTime};

use serde::{Deserialize, Serialize};
use swarmer_gossip::{Facts, HeldKeys};
use swarmer_mesh::identity::{Authority, Fingerprint, Membership, NodeCertificate, TrustBundle};
use swarmer_model::Key;
use swarmer_scheduler::{RingCommand, RingState};

use super::rotated::Rotated;
use crate::{
    agent::identity::{Grant, HeldCa, KeptGrant, identity_problem},
    codes,
    problem::{Outcome, Problem},
};

/// More are not believed at once: two while they rotate, and some whose keys were lost meanwhile. They
/// fit into one entry of the desired state.
const MAX_BELIEVED: usize = 4;

/// One authority: its number and its certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Believed {
    pub(crate) id: u32,
    #[serde(with = "hex::serde")]
    pub(crate) certificate: Vec<u8>,
}

impl fmt::Debug for Believed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Believed({})", self.id)
    }
}

/// All authorities at one step of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authorities {
    /// Counts the steps.
    pub(crate) generation: u64,
    /// Which one issues certificates.
    pub(crate) issues: u32,
    /// All that are believed, by ascending numbers.
    pub(crate) believed: Vec<Believed>,
}

impl Authorities {
    /// Of a cluster whose authority is the one that it was founded with.
    pub(crate) fn founded(ca: Vec<u8>) -> Self {
        let believed = vec![Believed { id: 1, certificate: ca }];
        Self { generation: 0, issues: 1, believed }
    }

    /// The certificate of the one that issues.
    pub(crate) fn issuing(&self) -> Outcome<&[u8]> {
        let issuing = self.believed.iter().find(|one| one.id == self.issues);
        let issuing = issuing.map(|one| one.certificate.as_slice());
        issuing.ok_or_else(|| Problem::new(codes::INTERNAL, "no authority issues certificates"))
    }

    /// The certificate of the newest one: what join tokens pin.
    pub(crate) fn newest(&self) -> Outcome<&[u8]> {
        let newest = self.believed.iter().max_by_key(|one| one.id);
        let newest = newest.map(|one| one.certificate.as_slice());
        newest.ok_or_else(|| Problem::new(codes::INTERNAL, "no authority is believed"))
    }

    /// Whose certificates are believed.
    pub(crate) fn bundle(&self) -> Outcome<TrustBundle> {
        TrustBundle::new(self.believed.iter().map(|one| one.certificate.clone()))
            .map_err(|error| identity_problem(&error))
    }

    /// The numbers of all that are believed.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.believed.iter().map(|one| one.id).collect()
    }

    /// Puts them where a member keeps them. Of the keys that it has, those stay that certificates are
    /// issued by or will be.
    pub(crate) fn put_into(&self, grant: &mut Grant) -> Outcome<()> {
        let (issuing, newest) = (self.issuing()?.to_vec(), self.newest()?.to_vec());
        let founding = grant.founding_authority()?.to_string();
        grant.founding_ca.get_or_insert(founding);
        let keys: Vec<String> = grant.ca_key_pem.take().into_iter().collect();
        let keys =
            [keys, grant.next_ca.take().map(|next| next.key_pem).into_iter().collect()].concat();
        let key_of = |ca: &[u8]| keys.iter().find(|key| Authority::fits(key, ca)).cloned();
        grant.ca_key_pem = key_of(&issuing);
        if newest != issuing {
            grant.next_ca = key_of(&newest).map(|key_pem| HeldCa { ca: newest, key_pem });
        }
        grant.ca = issuing;
        grant.authorities = Some(self.clone());
        Ok(())
    }

    /// What a member says of them: the newest that it believes, and has the key of if it votes; and the
    /// one that signed the certificate that it shows. `shown`: what it believes and shows just now.
    pub(crate) fn word_of(&self, shown: &Membership, grant: &Grant, votes: bool) -> HeldKeys {
        let Membership { bundle, certificate, .. } = shown;
        let number = |print: Fingerprint| {
            let is = |one: &&Believed| {
                let one = TrustBundle::new([one.certificate.clone()]);
                one.is_ok_and(|one| one.fingerprints().next() == Some(print))
            };
            self.believed.iter().find(is).map(|one| one.id)
        };
        let newest = bundle.fingerprints().filter_map(number).max().unwrap_or(1);
        // It can say nothing less than the first: zero is of one that is too old to speak.
        let newest = match votes && self.lacks(grant) {
            true => newest.saturating_sub(1).max(1),
            false => newest,
        };
        let seals = bundle.issuer_of(certificate).and_then(number).unwrap_or(0);
        HeldKeys { newest, seals }
    }
}

/// Whether a certificate is of the authority that issues.
pub(crate) fn is_current(grant: &Grant) -> bool {
    let certificate = NodeCertificate::from_der(grant.certificate.clone());
    let issuing = TrustBundle::new([grant.ca.clone()]);
    match (certificate, issuing) {
        (Ok(certificate), Ok(issuing)) => issuing.issuer_of(&certificate).is_some(),
        // Nothing that a renewal would mend.
        _ => true,
    }
}

impl Rotated for Authorities {
    const WHAT: &'static str = "the authorities";

    fn entry() -> Key {
        Key::cluster("keys/authorities")
    }

    fn wanted() -> Key {
        Key::cluster("keys/authority-wanted")
    }

    fn of(grant: &Grant) -> Outcome<Self> {
        Ok(grant.authorities.clone().unwrap_or_else(|| Self::founded(grant.ca.clone())))
    }

    fn state(&self) -> RingState {
        let keys = self.ids().into_iter().collect();
        RingState { generation: self.generation, keys, seals: self.issues }
    }

    fn lacks(&self, grant: &Grant) -> bool {
        let Ok(newest) = self.newest() else { return true };
        let issues = grant.ca_key_pem.as_ref().is_some_and(|key| Authority::fits(key, newest));
        let next =
            grant.next_ca.as_ref().is_some_and(|next| Authority::fits(&next.key_pem, newest));
        !issues && !next
    }

    fn next(&self, command: &RingCommand, kept: &KeptGrant) -> Outcome<Self> {
        let mut next = Self { generation: self.generation + 1, ..self.clone() };
        match command {
            RingCommand::Add(id) => {
                // One that never issued and whose key is lost has no certificates.
                next.believed.retain(|one| one.id <= self.issues);
                while next.believed.len() >= MAX_BELIEVED {
                    let first = next.believed.iter().position(|one| one.id != self.issues);
                    next.believed.remove(first.unwrap_or_default());
                }
                next.believed.push(Believed { id: *id, certificate: made(kept)? });
            }
            RingCommand::Seal(id) => next.issues = *id,
            RingCommand::Keep(id) => {
                next.issues = *id;
                next.believed.retain(|one| one.id == *id);
            }
        }
        Ok(next)
    }

    fn word(facts: &Facts) -> HeldKeys {
        facts.authority
    }
}

/// A new authority, whose key is on this node's disk before anybody hears of it: a leader that does not
/// get to commit it begins with the same one again.
fn made(kept: &KeptGrant) -> Outcome<Vec<u8>> {
    let grant = kept.get();
    let unused = |next: &HeldCa| {
        let committed = grant.authorities.iter().flat_map(|all| &all.believed);
        !committed.map(|one| &one.certificate).any(|certificate| *certificate == next.ca)
    };
    if let Some(next) = grant.next_ca.clone().filter(unused) {
        return Ok(next.ca);
    }
    let authority = Authority::create(grant.cluster, SystemTime::now())
        .map_err(|error| identity_problem(&error))?;
    let next = HeldCa { ca: authority.certificate_der().to_vec(), key_pem: authority.key_pem() };
    kept.update(|grant| grant.next_ca = Some(next.clone()))?;
    Ok(next.ca)
}

#[cfg(test)]
mod tests;
