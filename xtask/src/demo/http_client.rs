//! A client: asks who serves a port.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::wait;

/// How long each step of a request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// The name that the server of a port tells, on a connection of its own.
pub(super) fn who_answers(port: u16) -> anyhow::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let what = || format!("a request to http://{address}/");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(what)?;
    stream.set_write_timeout(Some(PATIENCE)).with_context(what)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n").with_context(what)?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer).with_context(what)?;
    body(&answer).with_context(what)
}

/// Who answered how many of `times` requests, each on a connection of its own.
pub(super) fn who_answers_how_often(port: u16, times: u32) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        wait::go_on()?;
        *counts.entry(who_answers(port)?).or_insert(0) += 1;
    }
    Ok(counts)
}

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
    fn body_is_the_name() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\nnginx-1\n").unwrap(), "nginx-1");
        assert!(body("HTTP/1.1 502 Bad Gateway\r\n\r\nnginx-1\n").is_err());
        assert!(body("").is_err());
    }
}
