//! A rotation as a voter keeps it.

use swarmer_mesh::identity::{CERTIFICATE_VALIDITY, Identity, NodeKey};
use swarmer_model::{ClusterId, NodeId};

use super::*;

const NODE: NodeId = NodeId(7);

/// A voter of a new cluster.
struct Voter {
    key: NodeKey,
    kept: KeptGrant,
    _dir: tempfile::TempDir,
}

impl Voter {
    fn new(authority: &Authority) -> Self {
        let (dir, key) = (tempfile::tempdir().unwrap(), NodeKey::generate().unwrap());
        let grant = Grant {
            cluster: authority.cluster(),
            ca: authority.certificate_der().to_vec(),
            authorities: None,
            founding_ca: None,
            certificate: Vec::new(),
            gossip_keys: Vec::new(),
            gossip_generation: 0,
            peers: Vec::new(),
            voters: vec![NODE],
            ca_key_pem: Some(authority.key_pem()),
            next_ca: None,
            maker: true,
            witness: None,
        };
        let voter = Self { key, kept: KeptGrant::new(dir.path(), grant), _dir: dir };
        voter.renew();
        voter
    }

    fn all(&self) -> Authorities {
        Authorities::of(&self.kept.get()).unwrap()
    }

    fn take(&self, all: &Authorities) {
        self.kept.try_update(|grant| all.put_into(grant)).unwrap();
    }

    /// By the authority that issues, which it holds.
    fn renew(&self) {
        let grant = self.kept.get();
        let authority = Authority::from_parts(&grant.ca_key_pem.unwrap(), grant.ca).unwrap();
        let now = SystemTime::now();
        let issued = authority.issue(NODE, &self.key.spki(), now, CERTIFICATE_VALIDITY);
        let issued = issued.unwrap().der().to_vec();
        self.kept.update(|grant| grant.certificate = issued).unwrap();
    }

    fn word(&self) -> (u32, u32) {
        let grant = self.kept.get();
        let Identity { membership, .. } = grant.identity(NODE, &self.key).unwrap();
        let word = self.all().word_of(&membership.unwrap(), &grant, true);
        (word.newest, word.seals)
    }

    /// The keys that it has: of the one that issues, and of the next.
    fn keys(&self) -> (bool, bool) {
        let grant = self.kept.get();
        (grant.ca_key_pem.is_some(), grant.next_ca.is_some())
    }
}

fn founded() -> Authority {
    Authority::create(ClusterId(5), SystemTime::now()).unwrap()
}

#[test]
fn a_rotation_goes_through_its_phases_and_leaves_no_key_of_the_old_one() {
    let first = founded();
    let (leader, other) = (Voter::new(&first), Voter::new(&first));
    let founding = leader.kept.get().founding_authority().unwrap();
    assert_eq!(founding, first.fingerprint());
    assert_eq!((leader.word(), leader.all().phase()), ((1, 1), "settled"));

    // The key is kept before anybody hears of it; a leader that is not heard begins with it again.
    let spreading = leader.all().next(&RingCommand::Add(2), &leader.kept).unwrap();
    assert_eq!(leader.keys(), (true, true));
    let again = leader.all().next(&RingCommand::Add(2), &leader.kept).unwrap();
    assert_eq!((&again, spreading.phase()), (&spreading, "spreading"));
    for voter in [&leader, &other] {
        voter.take(&spreading);
    }
    assert_eq!((leader.word(), other.word()), ((2, 1), (1, 1)), "who votes needs the key");
    assert!(other.kept.get().lacks_ca_key());
    let next = leader.kept.get().next_ca.unwrap();
    assert!(!other.kept.get().take_ca_keys(&[founded().key_pem()]).unwrap(), "of none of them");
    let keys = [first.key_pem(), next.key_pem.clone()];
    other.kept.try_update(|grant| grant.take_ca_keys(&keys).map(drop)).unwrap();
    assert_eq!(other.word(), (2, 1));

    let switching = spreading.next(&RingCommand::Seal(2), &leader.kept).unwrap();
    for voter in [&leader, &other] {
        voter.take(&switching);
        assert!(!is_current(&voter.kept.get()));
        assert_eq!((voter.word(), voter.keys()), ((2, 1), (true, false)));
        voter.renew();
        assert!(is_current(&voter.kept.get()));
        assert_eq!(voter.word(), (2, 2));
    }
    let done = switching.next(&RingCommand::Keep(2), &leader.kept).unwrap();
    other.take(&done);
    let grant = other.kept.get();
    assert_eq!((done.phase(), done.ids(), other.word()), ("settled", vec![2], (2, 2)));
    assert_eq!((&grant.ca, &grant.ca_key_pem), (&next.ca, &Some(next.key_pem)));
    assert_eq!(Authorities::of(&grant).unwrap().bundle().unwrap().fingerprints().count(), 1);
    let text = serde_json::to_string(&other.kept.get()).unwrap();
    assert!(!text.contains(&hex::encode(first.certificate_der())), "{text}");
    // It stays what the cluster is known by.
    assert_eq!(other.kept.get().founding_authority().unwrap(), founding);
}

#[test]
fn one_whose_key_went_with_a_leader_is_replaced_and_nothing_of_it_stays() {
    let first = founded();
    let (dead, leader) = (Voter::new(&first), Voter::new(&first));
    let spreading = dead.all().next(&RingCommand::Add(2), &dead.kept).unwrap();
    leader.take(&spreading);
    assert!(leader.all().lacks(&leader.kept.get()));
    let again = spreading.next(&RingCommand::Add(3), &leader.kept).unwrap();
    assert_eq!((again.ids(), again.issues), (vec![1, 3], 1));
    leader.take(&again);
    dead.take(&again);
    assert_eq!((leader.word(), dead.word()), ((3, 1), (2, 1)));
    assert_eq!((leader.keys(), dead.keys()), ((true, true), (true, false)));

    // One that issues already is believed until its certificates are gone.
    let switching = again.next(&RingCommand::Seal(3), &leader.kept).unwrap();
    dead.take(&switching);
    assert_eq!(dead.keys(), (false, false));
    let again = switching.next(&RingCommand::Add(4), &dead.kept).unwrap();
    assert_eq!((again.ids(), again.issues), (vec![1, 3, 4], 3));
    // However often that happens, they fit into an entry.
    let mut all = again;
    for id in 5..20 {
        all = all.next(&RingCommand::Seal(id - 1), &dead.kept).unwrap();
        dead.take(&all);
        dead.kept.update(|grant| (grant.ca_key_pem, grant.next_ca) = (None, None)).unwrap();
        all = all.next(&RingCommand::Add(id), &dead.kept).unwrap();
        assert!(all.believed.len() <= MAX_BELIEVED && all.ids().contains(&all.issues));
        assert!(serde_json::to_vec(&all).unwrap().len() < 8 * 1024);
    }
}

#[test]
fn what_older_versions_kept_is_read_and_keys_are_never_printed() {
    let voter = Voter::new(&founded());
    let mut kept = serde_json::to_value(voter.kept.get()).unwrap();
    for field in ["authorities", "founding_ca", "next_ca"] {
        assert!(kept.as_object_mut().unwrap().remove(field).is_none(), "absent until needed");
    }
    let read: Grant = serde_json::from_value(kept).unwrap();
    assert!(read == voter.kept.get());
    assert_eq!(format!("{:?}", voter.all().believed), "[Believed(1)]");
}
