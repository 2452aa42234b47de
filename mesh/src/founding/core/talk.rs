//! What founders say to each other, and what each makes of it.

use swarmer_model::{ClusterId, NodeId};

use super::{Founding, Link, MAX_FOUNDERS, MAX_LINKS};
use crate::founding::{
    CloseReason, FoundingToken, GiveUp, LinkId, Output, RefuseReason, Side, TurnedAway,
    message::{self, Claim, Hello, Message},
};

/// The most addresses in one hello.
const MAX_KNOWN: usize = 16;

impl Founding {
    fn send(&self, link: LinkId, message: &Message, out: &mut Vec<Output>) {
        out.push(Output::Send { link, bytes: message.encode() });
    }

    fn refuse(&mut self, link: LinkId, reason: RefuseReason, out: &mut Vec<Output>) {
        self.send(link, &Message::Refuse(reason), out);
        self.close(link, CloseReason::Refused(reason), out);
    }

    fn close(&mut self, id: LinkId, reason: CloseReason, out: &mut Vec<Output>) {
        let link = self.links.remove(&id);
        out.push(Output::Close { link: id, reason });
        let (CloseReason::Refused(reason) | CloseReason::RefusedByPeer(reason), Some(link)) =
            (reason, link)
        else {
            return;
        };
        // Others will never stop one that expects nobody else: what it was told to join does.
        let told_to_join = link.side == Side::Dialer && reason != RefuseReason::Full;
        if told_to_join && self.config.expect == 1 && self.is_free() {
            self.give_up(id, GiveUp::Alone { reason }, out);
        }
    }

    fn give_up(&mut self, link: LinkId, reason: GiveUp, out: &mut Vec<Output>) {
        self.given_up = true;
        out.push(Output::GiveUp { link, reason });
    }

    /// Whether this founder has bound itself to nothing and nobody yet.
    pub(super) fn is_free(&self) -> bool {
        self.record.consent.is_none() && self.join_instead.is_none() && !self.given_up
    }

    /// Whether the cluster of the token stands, as far as others may know.
    fn stands(&self) -> bool {
        let record = self.visible();
        record.granted || record.grants.is_some()
    }

    pub(super) fn connected(
        &mut self,
        link: LinkId,
        side: Side,
        exporter: [u8; 32],
        peer_spki: Vec<u8>,
        out: &mut Vec<Output>,
    ) {
        if self.links.len() >= MAX_LINKS {
            return self.refuse(link, RefuseReason::Full, out);
        }
        if self.proves_first(side) {
            self.send(link, &self.proof(side, &exporter), out);
        }
        self.links.insert(link, Link { side, exporter, peer_spki, peer: None, hello: None });
    }

    /// Where the cluster stands the other side proves itself first: it would take a foreign proof
    /// for that of a founder, and not wait to be told what stands here.
    fn proves_first(&self, side: Side) -> bool {
        side == Side::Dialer || !self.stands()
    }

    fn proof(&self, side: Side, exporter: &[u8; 32]) -> Message {
        let FoundingToken { cluster, secret } = &self.config.token;
        let (me, run) = (&self.config.me, self.config.run);
        let claim = Claim { cluster: *cluster, node: me.node, spki: &me.spki, run: &run };
        Message::Prove {
            cluster: *cluster,
            node: me.node,
            spki: me.spki.clone(),
            run,
            mac: message::prove(secret, &claim, side, exporter),
            known: message::prove(&secret.witness(), &claim, side, exporter),
        }
    }

    fn hello(&self) -> Message {
        let mut known: Vec<String> =
            self.peers().values().map(|hello| hello.founder.advertise.clone()).collect();
        known.truncate(MAX_KNOWN);
        let record = self.visible();
        Message::Hello(Hello {
            founder: self.config.me.clone(),
            expect: u8::try_from(self.config.expect).unwrap_or(u8::MAX),
            consent: record.consent.as_ref().map(|founder| founder.node),
            granted: self.stands(),
            known,
        })
    }

    /// Says to every proven peer where this founder stands, and asks the maker for the grant.
    pub(super) fn tell_all(&self, out: &mut Vec<Output>) {
        let hello = self.hello();
        let mut links: Vec<(&LinkId, &Link)> = self.links.iter().collect();
        links.sort_unstable_by_key(|(id, _)| **id);
        for (id, link) in links {
            // The peer says hello once it has this node's proof: until then it may have been lost.
            if link.hello.is_none() && (link.peer.is_some() || self.proves_first(link.side)) {
                self.send(*id, &self.proof(link.side, &link.exporter), out);
            }
            if link.peer.is_some() {
                self.send(*id, &hello, out);
            }
        }
        self.ask_maker(out);
    }

    fn ask_maker(&self, out: &mut Vec<Output>) {
        let record = self.visible();
        let Some(maker) = &record.consent else { return };
        if maker.node == self.config.me.node || record.granted {
            return;
        }
        if let Some(link) = self.link_to(maker.node) {
            let consent = Message::Consent { from: self.config.me.node, to: maker.node };
            self.send(link, &consent, out);
        }
    }

    pub(super) fn received(&mut self, id: LinkId, bytes: &[u8], out: &mut Vec<Output>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let message = Message::decode(bytes);
        match (message, link.peer) {
            (None, _) => self.refuse(id, RefuseReason::Protocol, out),
            (Some(Message::Refuse(reason)), _) => {
                self.close(id, CloseReason::RefusedByPeer(reason), out);
            }
            (Some(Message::Standing { cluster, hint, proof }), _) => {
                self.standing(id, cluster, hint, proof, out);
            }
            // Where nobody is a member yet, there is nothing to say to one.
            (Some(Message::Ask(_) | Message::Present(_)), _) => {}
            (Some(Message::Prove { cluster, node, spki, run, mac, .. }), None) => {
                let claim = Claim { cluster, node, spki: &spki, run: &run };
                match self.check_proof(id, &claim, &mac) {
                    Err(RefuseReason::OtherCluster) if self.stands() => {
                        self.send(id, &self.stands_here(), out);
                        let reason = TurnedAway::OtherCluster { cluster };
                        out.push(Output::TurnedAway { link: id, node, reason });
                        self.close(id, CloseReason::Standing { cluster, proven: false }, out);
                    }
                    Err(reason @ RefuseReason::WrongSecret) if self.stands() => {
                        self.send(id, &Message::Refuse(reason), out);
                        let reason = TurnedAway::WrongSecret;
                        out.push(Output::TurnedAway { link: id, node, reason });
                        self.close(id, CloseReason::Standing { cluster, proven: false }, out);
                    }
                    Err(reason) => self.refuse(id, reason, out),
                    Ok(()) if node == self.config.me.node => {
                        self.close(id, CloseReason::Myself, out);
                    }
                    Ok(()) => {
                        let Some(link) = self.links.get_mut(&id) else { return };
                        link.peer = Some(node);
                        let (side, exporter) = (link.side, link.exporter);
                        if !self.proves_first(side) {
                            self.send(id, &self.proof(side, &exporter), out);
                        }
                        let hello = self.hello();
                        self.send(id, &hello, out);
                    }
                }
            }
            // Before the proof nothing is believed; after it, a second proof says nothing new.
            (Some(_), None) | (Some(Message::Prove { .. }), Some(_)) => {}
            (Some(Message::Hello(hello)), Some(peer)) => self.hello_from(id, peer, hello, out),
            (Some(Message::Consent { from, to }), Some(peer)) => {
                if from != peer {
                    return self.refuse(id, RefuseReason::Protocol, out);
                }
                if to == self.config.me.node {
                    self.consent_from(id, peer, out);
                }
            }
            (Some(Message::Grant { to, grant }), Some(peer)) => {
                let maker = self.durable.consent.as_ref().map(|founder| founder.node);
                if to == self.config.me.node && maker == Some(peer) && !self.durable.granted {
                    self.grant_told = Some(grant.clone());
                    out.push(Output::Granted { grant });
                }
            }
            (Some(Message::AlreadyFounded { hint }), Some(peer)) => {
                self.already_founded(peer, hint, out);
            }
        }
    }

    fn check_proof(
        &self,
        id: LinkId,
        claim: &Claim<'_>,
        mac: &[u8; 32],
    ) -> Result<(), RefuseReason> {
        let link = self.links.get(&id).ok_or(RefuseReason::Protocol)?;
        let token = &self.config.token;
        let Claim { cluster, node, spki, run } = *claim;
        if cluster != token.cluster {
            return Err(RefuseReason::OtherCluster);
        }
        let peer_side = match link.side {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        };
        if !message::check(&token.secret, claim, peer_side, &link.exporter, mac) {
            return Err(RefuseReason::WrongSecret);
        }
        if spki != link.peer_spki {
            return Err(RefuseReason::WrongKey);
        }
        let other_key = |link: &Link| link.peer == Some(node) && link.peer_spki != spki;
        let another_run = node == self.config.me.node && *run != self.config.run;
        if another_run || self.links.values().any(other_key) {
            return Err(RefuseReason::SameNode);
        }
        Ok(())
    }

    fn hello_from(&mut self, id: LinkId, peer: NodeId, hello: Hello, out: &mut Vec<Output>) {
        // Where one of the two is in a cluster, how many were to found it is no matter any more.
        let begins = !hello.granted && !self.stands();
        let Some(link) = self.links.get_mut(&id) else { return };
        if hello.founder.node != peer || hello.founder.spki != link.peer_spki {
            return self.refuse(id, RefuseReason::Protocol, out);
        }
        if begins && usize::from(hello.expect) != self.config.expect {
            return self.refuse(id, RefuseReason::OtherExpect, out);
        }
        let known: Vec<String> = hello.known.iter().take(MAX_KNOWN).cloned().collect();
        let unconsented = hello.consent.is_none() && !hello.granted;
        link.hello = Some(hello);

        let addresses: Vec<&str> = self
            .links
            .values()
            .filter_map(|l| Some(&*l.hello.as_ref()?.founder.advertise))
            .collect();
        for address in known {
            if address != self.config.me.advertise && !addresses.contains(&address.as_str()) {
                out.push(Output::Dial { address });
            }
        }
        // A node without any consent that meets a standing cluster is surplus, or has lost its
        // disk. One that did consent is answered by the founder that it consented to.
        // A founder's hello may be older than its consent, if the two came by different links.
        let visible = self.visible();
        let surplus = match &visible.grants {
            Some(grants) => !grants.iter().any(|(node, _)| *node == peer),
            None => visible.granted,
        };
        if unconsented && surplus {
            let hint = self.hint();
            self.send(id, &Message::AlreadyFounded { hint }, out);
            out.push(Output::TurnedAway { link: id, node: peer, reason: TurnedAway::Spent });
        }
        // The maker says hello when a link is new and when it has founded: ask at once.
        if self.visible().consent.as_ref().is_some_and(|maker| maker.node == peer) {
            self.ask_maker(out);
        }
    }

    /// The address of the founder that made the cluster, as far as it is known here.
    fn hint(&self) -> String {
        match &self.durable.consent {
            Some(maker) => maker.advertise.clone(),
            None => self.config.me.advertise.clone(),
        }
    }

    /// For a founder with a token of another cluster, which can check no proof of this one.
    fn stands_here(&self) -> Message {
        let cluster = self.config.token.cluster;
        Message::Standing { cluster, hint: self.hint(), proof: None }
    }

    /// A member of some cluster answers at the other end. Proven, it ends this founding unless
    /// that has begun: a founder that has consented goes by its maker's word alone. Not proven, it
    /// ends only one that has nobody to wait for.
    fn standing(
        &mut self,
        id: LinkId,
        cluster: ClusterId,
        hint: String,
        proof: Option<[u8; 32]>,
        out: &mut Vec<Output>,
    ) {
        let Some(link) = self.links.get(&id) else { return };
        let (dialled, exporter) = (link.side == Side::Dialer, link.exporter);
        let FoundingToken { cluster: own, secret } = &self.config.token;
        let proven = cluster == *own
            && proof.is_some_and(|proof| {
                message::check_standing(&secret.witness(), cluster, &hint, &exporter, &proof)
            });
        if dialled && self.is_free() {
            if proven {
                self.join_instead = Some(hint.clone());
                out.push(Output::JoinInstead { hint });
            } else if self.config.expect == 1 {
                self.give_up(id, GiveUp::Standing { cluster }, out);
            } else {
                self.hearsay = Some(cluster);
            }
        }
        self.close(id, CloseReason::Standing { cluster, proven }, out);
    }

    fn consent_from(&mut self, id: LinkId, peer: NodeId, out: &mut Vec<Output>) {
        let visible = self.visible();
        if let Some(grants) = &visible.grants {
            let answer = match grants.iter().find(|(node, _)| *node == peer) {
                Some((to, grant)) => Message::Grant { to: *to, grant: grant.clone() },
                None => Message::AlreadyFounded { hint: self.hint() },
            };
            return self.send(id, &answer, out);
        }
        if self.record.decided.is_some() {
            return; // The cluster is being made; the peer asks again.
        }
        let known = self.record.received.iter().any(|founder| founder.node == peer);
        let founder = self.links.get(&id).and_then(|link| link.hello.as_ref());
        // Without its hello it is not known who it is; it says both again.
        if let (false, Some(hello)) = (known, founder)
            && self.record.received.len() < MAX_FOUNDERS * 2
        {
            self.record.received.push(hello.founder.clone());
            self.persist(out);
        }
    }

    fn already_founded(&mut self, peer: NodeId, hint: String, out: &mut Vec<Output>) {
        if self.record.granted || self.record.grants.is_some() {
            let text = format!(
                "node {peer} says that the cluster {} was founded by others too: two clusters \
                 have one id; stop one of them, remove its data directories and let its nodes join",
                self.config.token.cluster
            );
            return self.log_once(text, out);
        }
        let maker = self.record.consent.as_ref().map(|founder| founder.node);
        let bound = maker.is_some_and(|maker| maker != peer && maker != self.config.me.node);
        let collecting = maker == Some(self.config.me.node) && self.record.decided.is_some();
        if bound || collecting {
            // Only the founder that this one consented to can say that it came too late.
            let text = format!("node {peer} says that the cluster was already founded");
            return self.log_once(text, out);
        }
        if self.join_instead.is_none() {
            self.join_instead = Some(hint.clone());
            out.push(Output::JoinInstead { hint });
        }
    }
}
