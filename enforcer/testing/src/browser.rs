//! A headless Chromium, driven over `WebDriver` (<https://www.w3.org/TR/webdriver2/>): what a person sees of a page.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest time of a command, and of a wait.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Flags of a browser that has no screen and asks nobody.
const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser with one window. It ends when dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Kept open, for the driver may have more to say.
    _output: BufReader<ChildStdout>,
    profile: TempDir,
}

impl Browser {
    /// Starts a browser; `None` if Chromium or its driver is not installed.
    pub fn start() -> Option<Self> {
        let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut driver = driver.ok()?;
        let output = driver.stdout.take().expect("it is a pipe");
        let mut output = BufReader::new(output);
        let port = output.by_ref().lines().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let profile = TempDir::new().expect("a folder");
        let mut browser = Self {
            driver,
            port: port.expect("chromedriver says its port"),
            session: String::new(),
            _output: output,
            profile,
        };
        let mut arguments: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        arguments.push(format!("--user-data-dir={}", browser.profile.path().display()));
        arguments.push("--window-size=1400,1000".to_owned());
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.call("POST", "/session", &wanted);
        session["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        Some(browser)
    }

    /// Opens a file, and waits until it says that it can be used: the milliseconds that took.
    pub fn open(&self, file: &Path) -> u64 {
        self.command("/url", &json!({ "url": format!("file://{}", file.display()) }));
        let ready = self.wait("the page is ready", "return document.documentElement.dataset.ready || null");
        ready.as_str().and_then(|ready| ready.parse().ok()).expect("a number of milliseconds")
    }

    /// Runs a script, and returns what it returns.
    pub fn script(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until a script returns something other than null or false.
    pub fn wait(&self, what: &str, script: &str) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let value = self.script(script);
            if !value.is_null() && value != json!(false) {
                return value;
            }
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Types text into the element that a CSS selector names.
    pub fn type_into(&self, selector: &str, text: &str) {
        let found = self.command("/element", &json!({ "using": "css selector", "value": selector }));
        let element = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        let element = element.unwrap_or_else(|| panic!("{selector} is no element: {found}"));
        self.command(&format!("/element/{element}/value"), &json!({ "text": text }));
    }

    /// Sets what the page is told about its reader: `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let command = json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } });
        self.command("/goog/cdp/execute", &command);
    }

    /// Writes a picture of the window, as PNG.
    pub fn screenshot(&self, file: &Path) {
        let picture = self.call("GET", &format!("/session/{}/screenshot", self.session), &json!({}));
        let picture = BASE64_STANDARD.decode(picture.as_str().expect("a picture")).expect("Base64");
        fs::write(file, picture).expect("writing the picture");
    }

    /// Returns what the page and the browser complained about so far.
    pub fn complaints(&self) -> Vec<Value> {
        self.command("/se/log", &json!({ "type": "browser" })).as_array().cloned().unwrap_or_default()
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a time limit");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("a request");
        let mut stream = BufReader::new(stream);
        let mut status = String::new();
        stream.read_line(&mut status).expect("an answer");
        // The driver leaves the connection open.
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a head");
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().expect("a length");
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).expect("a body");
        let mut answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert!(status.starts_with("HTTP/1.1 200"), "{method} {path}: {status} {answer}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.call("DELETE", &format!("/session/{}", self.session), &json!({}));
        }
        // Its browser ends with it.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
