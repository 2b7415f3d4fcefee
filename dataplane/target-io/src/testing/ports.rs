//! TCP ports for the programs that tests start.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below the kernel's ephemeral ones (`ip_local_port_range` begins at 32768), so that no
/// outgoing connection of another test takes one between two starts of a program.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port that nobody listens on, neither over IPv4 nor over IPv6, and that no other call of this
/// function returns, in no other process either, while this process lives: a program under test may
/// end and listen on it again.
///
/// # Panics
///
/// When all 20,000 are taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes of one run begin far from each other.
    let begin = std::process::id().wrapping_mul(7919);
    for _ in 0..COUNT {
        let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("the last is below 65536");
        if reserve(port) && is_free(port) {
            return port;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT - 1);
}

/// Whether this process has the port's name now, which it keeps for its life.
fn reserve(port: u16) -> bool {
    let name = format!("basalt-test-port-{port}");
    let address = SocketAddr::from_abstract_name(name).expect("a short name");
    UnixListener::bind_addr(&address).map(std::mem::forget).is_ok()
}

fn is_free(port: u16) -> bool {
    // A machine without IPv6 has nobody who listens there.
    let ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && (!ipv6 || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_can_be_listened_on() {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        for (at, port) in ports.iter().enumerate() {
            assert!((FIRST..FIRST + COUNT).contains(&u32::from(*port)));
            assert!(!ports[..at].contains(port));
            assert!(!reserve(*port), "{port} is held");
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("nobody listens");
        }
    }

    #[test]
    fn a_port_with_a_listener_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        assert!(!is_free(listener.local_addr().expect("bound").port()));
    }
}
