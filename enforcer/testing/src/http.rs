//! The agent's HTTP, asked by hand.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// Where the agents of tests serve that are asked.
pub const LISTEN: &str = "127.0.0.1:20999";

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the agent.
pub fn connect() -> TcpStream {
    let stream = TcpStream::connect(LISTEN).expect("HTTP is served");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream
}

/// Sends something and reads what is answered until the connection is closed.
pub fn send_raw(request: &[u8]) -> String {
    let mut stream = connect();
    // The agent may close before it has read all.
    let _ = stream.write_all(request);
    read_to_end(&mut stream)
}

/// What still comes on a connection until it is closed.
pub fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends an answer too, if it is one.
    let ended = stream.read_to_end(&mut answer);
    let reset = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
    assert!(ended.is_ok() || reset, "the connection is closed: {ended:?}");
    String::from_utf8(answer).expect("UTF-8")
}

/// The status, the head and the body of an answer.
pub fn request(method: &str, path: &str) -> (u16, String, String) {
    let answer = send_raw(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), head.to_lowercase(), body.to_owned())
}

/// The status and the body that a GET is answered with.
pub fn get(path: &str) -> (u16, String) {
    let (status, _, body) = request("GET", path);
    (status, body)
}
