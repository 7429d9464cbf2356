//! A raw HTTP client for the agent: it sends bytes and reads the answer.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Address where the agents of tests serve health and metrics.
pub const LISTEN: &str = "127.0.0.1:20999";

/// Longest time without a byte of an answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Connects to [`LISTEN`].
pub fn connect() -> TcpStream {
    let stream = TcpStream::connect(LISTEN).expect("HTTP is served");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a time limit");
    stream
}

/// Connects to an admin socket.
pub fn connect_unix(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the admin socket is served");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a time limit");
    stream
}

/// Sends bytes on a connection and reads until it is closed.
pub fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> String {
    // The agent may close before it has read all.
    let _ = stream.write_all(request);
    read_to_end(stream)
}

/// Sends bytes to [`LISTEN`] and reads until the connection is closed.
pub fn send_raw(request: &[u8]) -> String {
    exchange(&mut connect(), request)
}

/// Reads until the connection is closed.
pub fn read_to_end(stream: &mut impl Read) -> String {
    let mut answer = Vec::new();
    // A reset ends an answer too, if it is one.
    let ended = stream.read_to_end(&mut answer);
    let reset = ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    assert!(ended.is_ok() || reset, "the connection is closed: {ended:?}");
    String::from_utf8(answer).expect("UTF-8")
}

/// Sends a request to [`LISTEN`]. Returns status, head in lower case, and body of the answer.
pub fn request(method: &str, path: &str) -> (u16, String, String) {
    let answer = send_raw(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), head.to_lowercase(), body.to_owned())
}

/// Sends a GET to [`LISTEN`]. Returns status and body of the answer.
pub fn get(path: &str) -> (u16, String) {
    let (status, _, body) = request("GET", path);
    (status, body)
}
