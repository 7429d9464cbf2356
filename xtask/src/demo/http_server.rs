//! HTTP server of the demo, which answers each request with the name of its pod.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

/// Time limit for a client to send its request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Greatest number of bytes to read of a request.
const MAX_REQUEST_BYTES: usize = 8192;

/// Flags of the server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the pod
    #[arg(long)]
    pub(super) pod: String,
    /// Port to listen on, on all IPv4 addresses
    #[arg(long)]
    pub(super) port: u16,
    /// Set `SO_REUSEPORT`, so that others can listen on it too
    #[arg(long)]
    pub(super) share: bool,
    /// File to create when it listens
    #[arg(long)]
    pub(super) ready: PathBuf,
}

/// Serves requests until the process is killed.
pub(super) fn run(Args { pod, port, share, ready }: &Args) -> anyhow::Result<()> {
    // The name in the enforcer's messages, at most 15 bytes.
    rustix::thread::set_name(c"demo-server").context("cannot name the process")?;
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, *port);
    let listener = open(address, *share).with_context(|| format!("bind to {address} failed"))?;
    fs::write(ready, "").with_context(|| format!("cannot write {}", ready.display()))?;
    for client in listener.incoming() {
        // Errors of a client do not concern the server.
        let _ = client.and_then(|client| answer(client, pod));
    }
    Ok(())
}

/// Opens a listening socket. `std` cannot set `SO_REUSEPORT` before it binds.
fn open(address: SocketAddrV4, share: bool) -> io::Result<TcpListener> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // As nearly every server does. Otherwise lingering connections of the previous scenario would block the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, share)?;
    bind(&socket, &address)?;
    listen(&socket, 128)?;
    Ok(socket.into())
}

/// Reads a request and answers it.
fn answer(mut client: TcpStream, pod: &str) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    // To its end, because closing a connection with unread bytes resets it.
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") && request.len() < MAX_REQUEST_BYTES {
        let length = client.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        request.extend_from_slice(&buffer[..length]);
    }
    let body = format!("{pod}\n");
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::demo::http_client;

    #[test]
    fn server_answers_with_the_name() {
        let listener = open(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), false).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0, "nginx-1"));
        assert_eq!(http_client::pod_that_answers(port).unwrap(), "nginx-1");
        server.join().unwrap().unwrap();
    }

    #[test]
    fn port_is_shared_only_if_both_set_reuseport() {
        for (first, second, works) in [(true, true, true), (true, false, false), (false, true, false)] {
            let one = open(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), first).unwrap();
            let port = one.local_addr().unwrap().port();
            let two = open(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), second);
            assert_eq!(two.is_ok(), works, "{first} {second}");
        }
    }
}
