//! Listening sockets.

use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

// A host that vanished is noticed after about a minute and a half, even if it set no keep-alive
// timeout of its own.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// A listening socket and the address that it got. Sockets accepted from it inherit its options.
///
/// It blocks, as all sockets here do: io_uring takes a non-blocking one as a wish to be told
/// `EAGAIN`.
pub(super) fn open(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let tcp = Some(ipproto::TCP);
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, tcp)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_keepalive(&fd, true)?;
    sockopt::set_tcp_keepidle(&fd, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&fd, KEEPALIVE_PROBES)?;
    bind(&fd, &address)?;
    rustix::net::listen(&fd, BACKLOG)?;
    let bound = SocketAddr::try_from(getsockname(&fd)?)?;
    Ok((fd, bound))
}

/// Addresses of an accepted socket: the host's, then ours. Fails if the host has left already.
pub(super) fn addresses(fd: &OwnedFd) -> io::Result<(SocketAddr, SocketAddr)> {
    let peer = rustix::net::getpeername(fd)?.ok_or(io::ErrorKind::NotConnected)?;
    let local = getsockname(fd)?;
    Ok((SocketAddr::try_from(peer)?, SocketAddr::try_from(local)?))
}
