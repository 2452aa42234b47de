//! The keys that datagrams are sealed with.

use std::{collections::BTreeMap, fmt};

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use serde::{Deserialize, Serialize};

use crate::{GossipError, MAX_KEYS};

/// The number under which all nodes know a key; goes in clear in every datagram.
pub type KeyId = u32;

/// 32 secret bytes; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What a node says of the keys that it has, or of the authorities that it believes: their numbers,
/// never the keys. Zeros are of a node that is too old to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeldKeys {
    /// The newest one that it opens with, or believes.
    pub newest: KeyId,
    /// The one that it seals with, or has its certificate of.
    pub seals: KeyId,
}

/// Several keys by id: one, the primary, seals; all open.
///
/// Rotation without a lost member: a ring with the new key beside the old one everywhere
/// ([`crate::Handle::set_keyring`]), then one in which the new key seals, then one without the old
/// one. Ids ascend: a newer key has a higher one.
#[derive(Clone)]
pub struct Keyring {
    keys: BTreeMap<KeyId, (Key, XChaCha20Poly1305)>,
    primary: KeyId,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("ids", &self.keys.keys().collect::<Vec<_>>())
            .field("primary", &self.primary)
            .finish()
    }
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&chacha20poly1305::Key::from(key.0))
}

impl Keyring {
    /// A keyring with one key, its primary.
    pub fn new(id: KeyId, key: Key) -> Self {
        let sealed = cipher(&key);
        Self { keys: BTreeMap::from([(id, (key, sealed))]), primary: id }
    }

    /// Adds a key to open with. The same id with the same key changes nothing.
    ///
    /// # Errors
    /// The id is taken by another key, or there are [`MAX_KEYS`] already.
    pub fn add(&mut self, id: KeyId, key: Key) -> Result<(), GossipError> {
        match self.keys.get(&id) {
            Some((held, _)) if *held == key => return Ok(()),
            Some(_) => {
                return Err(GossipError::Keyring(format!("key {id} is another key already")));
            }
            None => {}
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(GossipError::Keyring(format!(
                "{MAX_KEYS} keys are held already; remove an old one first"
            )));
        }
        let sealed = cipher(&key);
        self.keys.insert(id, (key, sealed));
        Ok(())
    }

    /// Seals with this key from now on.
    ///
    /// # Errors
    /// The key is not held.
    pub fn set_primary(&mut self, id: KeyId) -> Result<(), GossipError> {
        if !self.keys.contains_key(&id) {
            return Err(GossipError::Keyring(format!("key {id} is not held")));
        }
        self.primary = id;
        Ok(())
    }

    /// The id of the key that seals.
    pub fn primary(&self) -> KeyId {
        self.primary
    }

    /// All ids held, ascending.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.keys.keys().copied()
    }

    /// What a node says of its keys.
    pub fn held(&self) -> HeldKeys {
        let newest = self.ids().last().unwrap_or(self.primary);
        HeldKeys { newest, seals: self.primary }
    }

    pub(crate) fn sealing(&self) -> (KeyId, &XChaCha20Poly1305) {
        let (_, cipher) = self.keys.get(&self.primary).expect("the primary is never removed");
        (self.primary, cipher)
    }

    pub(crate) fn opening(&self, id: KeyId) -> Option<&XChaCha20Poly1305> {
        self.keys.get(&id).map(|(_, cipher)| cipher)
    }
}
