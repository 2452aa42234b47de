//! Finding the cluster, and finding it again.

use std::{net::SocketAddr, time::Duration};

use rand::RngExt;

use super::{Core, KnownMember, Output, agenda::Task, wire::Message};
use crate::{MAX_PERSISTED_MEMBERS, MAX_SEED_ADDRESSES, MAX_SEEDS, Timing};

struct Seed {
    text: String,
    /// What it resolved to last.
    addrs: Vec<SocketAddr>,
    backoff: Duration,
    next: Duration,
}

pub(super) struct Seeds {
    seeds: Vec<Seed>,
    /// Members of the last run.
    known: Vec<KnownMember>,
    known_backoff: Duration,
    known_next: Duration,
}

impl Seeds {
    pub(super) fn new(timing: &Timing, seeds: Vec<String>, mut known: Vec<KnownMember>) -> Self {
        known.truncate(MAX_PERSISTED_MEMBERS);
        let seeds = seeds
            .into_iter()
            .take(MAX_SEEDS)
            .map(|text| Seed {
                text,
                addrs: Vec::new(),
                backoff: timing.seed_backoff_min,
                next: Duration::ZERO,
            })
            .collect();
        let known_backoff = timing.seed_backoff_min;
        Self { seeds, known, known_backoff, known_next: Duration::ZERO }
    }
}

impl Core {
    /// Replaces the seeds; those that stay keep their rhythm.
    pub fn set_seeds(&mut self, now: Duration, seeds: Vec<String>) {
        let time = self.time(now);
        let mut old = std::mem::take(&mut self.seeds.seeds);
        for text in seeds.into_iter().take(MAX_SEEDS) {
            let held = old.iter().position(|seed| seed.text == text);
            self.seeds.seeds.push(match held {
                Some(at) => old.swap_remove(at),
                None => Seed {
                    text,
                    addrs: Vec::new(),
                    backoff: self.timing.seed_backoff_min,
                    next: time,
                },
            });
        }
        self.agenda.add(time, Task::Seeds);
    }

    /// Tries what is due: each seed while none of its addresses is an active member's, the
    /// members of the last run while we are alone. For ever.
    pub(super) fn try_seeds(&mut self, time: Duration) {
        let max = self.timing.seed_backoff_max;
        for at in 0..self.seeds.seeds.len() {
            let seed = &self.seeds.seeds[at];
            if seed.next > time {
                continue;
            }
            let found = self.is_found(&seed.addrs);
            let spread = self.rng.random_range(0.8..1.2);
            let seed = &mut self.seeds.seeds[at];
            // A seed that is found is only looked at again now and then.
            seed.backoff = if found { max } else { (seed.backoff * 2).min(max) };
            seed.next = time + seed.backoff.mul_f64(spread);
            if !found {
                let seed = seed.text.clone();
                match seed.parse::<SocketAddr>() {
                    Ok(addr) => self.try_addresses(&seed, vec![addr]),
                    Err(_) => self.outputs.push_back(Output::ResolveSeed { seed }),
                }
            }
        }
        if self.view.active() == 1 && self.seeds.known_next <= time {
            self.seeds.known_next = time + self.seeds.known_backoff;
            self.seeds.known_backoff = (self.seeds.known_backoff * 2).min(max);
            let addrs: Vec<SocketAddr> = self.seeds.known.iter().map(|k| k.addr).collect();
            self.join(&addrs);
        } else if self.view.active() > 1 {
            self.seeds.known_backoff = self.timing.seed_backoff_min;
            self.seeds.known_next = time;
        }
        let next = self
            .seeds
            .seeds
            .iter()
            .map(|seed| seed.next)
            .chain([self.seeds.known_next.max(time + self.timing.seed_backoff_min)])
            .min()
            .unwrap_or(time + max);
        self.agenda.add(next, Task::Seeds);
    }

    /// What a seed's name resolved to; empty if it did not. It is resolved again on the next try.
    pub fn seed_resolved(&mut self, _now: Duration, seed: &str, mut addrs: Vec<SocketAddr>) {
        addrs.truncate(MAX_SEED_ADDRESSES);
        if self.farewells.is_none() {
            self.try_addresses(seed, addrs);
        }
    }

    fn try_addresses(&mut self, seed: &str, addrs: Vec<SocketAddr>) {
        if let Some(held) = self.seeds.seeds.iter_mut().find(|held| held.text == seed) {
            held.addrs.clone_from(&addrs);
            if !self.is_found(&addrs) {
                self.join(&addrs);
            }
        }
    }

    fn is_found(&self, addrs: &[SocketAddr]) -> bool {
        addrs.contains(&self.advertise)
            || self.view.active_peers().any(|peer| addrs.contains(&peer.addr))
    }

    fn join(&mut self, addrs: &[SocketAddr]) {
        let message = Message::Join(self.identity()).encode();
        for addr in addrs {
            if *addr != self.advertise {
                self.send_payload(*addr, None, &message, false);
            }
        }
    }
}
