//! SendTargets (RFC 7143, appendix C): which target there is, and where.

use super::{ConnectionContext, PORTAL_GROUP, Portal, Target};
use crate::seam::{ConnectionId, SessionKind};
use crate::text;
use std::net::{IpAddr, SocketAddr};

impl Target {
    /// Answers a text request; `None` to reject it.
    pub(super) fn send_targets(
        &self,
        connection: ConnectionId,
        context: ConnectionContext,
        request: &[u8],
    ) -> Option<Vec<u8>> {
        let session = self.sessions.get(&connection)?;
        let pairs = text::parse(request).ok()?;
        let mut answer = Vec::new();
        for (key, value) in pairs {
            if key != "SendTargets" {
                text::push(&mut answer, key, "NotUnderstood");
                continue;
            }
            let name = self.config.name.as_str();
            let is_meant = match (value, session.names.kind) {
                ("All", SessionKind::Discovery) => true,
                ("", SessionKind::Normal) => true,
                // All targets are only named to who has not chosen one.
                ("All" | "", _) => {
                    text::push(&mut answer, key, "Reject");
                    continue;
                }
                (asked, _) => asked.eq_ignore_ascii_case(name),
            };
            if is_meant {
                self.describe(context, &mut answer);
            }
        }
        Some(answer)
    }

    /// Whether who came in there has reached this address.
    pub(super) fn is_at(&self, context: ConnectionContext, address: SocketAddr) -> bool {
        let here = self.portals.iter().filter(|portal| portal.id == context.portal);
        here.filter_map(|portal| reachable(portal, context)).any(|here| here == address)
    }

    /// The target's name and addresses, those first that lie where the initiator came from.
    fn describe(&self, context: ConnectionContext, answer: &mut Vec<u8>) {
        text::push(answer, "TargetName", self.config.name.as_str());
        let (here, others): (Vec<&Portal>, Vec<&Portal>) =
            self.portals.iter().partition(|portal| portal.id == context.portal);
        let mut named: Vec<SocketAddr> = Vec::new();
        for portal in here.into_iter().chain(others) {
            let Some(address) = reachable(portal, context) else { continue };
            if !named.contains(&address) {
                named.push(address);
                let value = format!("{address},{PORTAL_GROUP}");
                text::push(answer, "TargetAddress", &value);
            }
        }
    }
}

/// The address of a portal for an initiator that came in at `context`.
fn reachable(portal: &Portal, context: ConnectionContext) -> Option<SocketAddr> {
    if let Some(advertised) = portal.advertised {
        return Some(advertised);
    }
    let listen = portal.listen;
    if !listen.ip().is_unspecified() {
        // Nobody else reaches what only this machine does.
        let is_near = listen.ip().is_loopback() && !context.local.to_canonical().is_loopback();
        return (!is_near).then_some(listen);
    }
    let local = context.local.to_canonical();
    // An address of all: the one that the initiator came to, if it is of the same family.
    let is_same_family = match (listen.ip(), local) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), _) => true,
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    };
    is_same_family.then(|| SocketAddr::new(local, listen.port()))
}
