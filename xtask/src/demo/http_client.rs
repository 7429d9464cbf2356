//! HTTP client that asks the servers of the demo for the names of their pods.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::wait;

/// Time limit of each step of a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Greatest number of bytes to read of an answer.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Sends a request to a port, and returns the name of the pod that answers.
pub(super) fn pod_that_answers(port: u16) -> anyhow::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let context = || format!("a request to http://{address}/");
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(context)?;
    stream.set_read_timeout(Some(TIMEOUT)).with_context(context)?;
    stream.set_write_timeout(Some(TIMEOUT)).with_context(context)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n").with_context(context)?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer).with_context(context)?;
    body(&answer).with_context(context)
}

/// Sends requests to a port, each on its own connection. Returns the number of answers by pod.
pub(super) fn count_answers(port: u16, requests: u32) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        wait::check_signals()?;
        *counts.entry(pod_that_answers(port)?).or_insert(0) += 1;
    }
    Ok(counts)
}

/// Returns the body of a successful answer.
fn body(answer: &str) -> anyhow::Result<String> {
    let status = answer.lines().next().unwrap_or_default();
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) if status.starts_with("HTTP/1.1 200 ") => Ok(body.trim().to_owned()),
        _ => bail!("the server answered `{status}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_of_a_successful_answer_is_the_name() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\nnginx-1\n").unwrap(), "nginx-1");
        assert!(body("HTTP/1.1 502 Bad Gateway\r\n\r\nnginx-1\n").is_err());
        assert!(body("").is_err());
    }
}
