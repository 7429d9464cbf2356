//! Names of flags and variables, and what they say of the port in their value.
//!
//! The words are those of protocols and of what servers serve. Nothing here names a product: a word that is not listed says
//! nothing, and then the port may be another program's.

/// Longest name that is read, in bytes. No real flag or variable comes near it.
const MAX_NAME: usize = 128;

/// Words for a port that a program listens on.
const SERVED: [&str; 41] = [
    "admin",
    "api",
    "console",
    "dashboard",
    "dns",
    "exporter",
    "gossip",
    "graphql",
    "grpc",
    "http",
    "http2",
    "https",
    "insecure",
    "jmx",
    "jmxremote",
    "listener",
    "memberlist",
    "quic",
    "receiver",
    "rest",
    "rpc",
    "secure",
    "server",
    "socks",
    "ssl",
    "statsd",
    "tcp",
    "tls",
    "transport",
    "udp",
    "ui",
    "web",
    "webhook",
    "websocket",
    "ws",
    "wss",
    "monitor",
    "monitoring",
    "prometheus",
    "telemetry",
    "serve",
];
/// Words for what is served to those who look after a program. Hardly any program asks for these of another one by its
/// address.
const OBSERVED: [&str; 22] = [
    "debug",
    "diagnostics",
    "expvar",
    "health",
    "healthcheck",
    "healthz",
    "introspection",
    "live",
    "liveness",
    "livez",
    "management",
    "metric",
    "metrics",
    "pprof",
    "probe",
    "profile",
    "profiling",
    "readiness",
    "ready",
    "readyz",
    "stats",
    "status",
];
/// Words that say by themselves that the program listens.
const LISTENING: [&str; 6] = ["bind", "listen", "listeners", "listening", "listener", "listens"];
/// Words for somebody else's port, wherever they stand in a name.
const FOREIGN: [&str; 30] = [
    "adv",
    "advertise",
    "advertised",
    "apiserver",
    "backend",
    "bootstrap",
    "client",
    "connect",
    "database",
    "db",
    "dest",
    "destination",
    "dst",
    "endpoints",
    "external",
    "forward",
    "join",
    "kubelet",
    "master",
    "origin",
    "peer",
    "peers",
    "push",
    "remote",
    "scrape",
    "seed",
    "seeds",
    "source",
    "target",
    "upstream",
];
/// First words of what is turned off.
const OFF: [&str; 5] = ["disable", "disabled", "no", "skip", "without"];
/// Words of what turns something on and off.
const SWITCHES: [&str; 2] = ["enable", "enabled"];
/// Last words of an address.
const ADDRESS: [&str; 6] = ["addr", "addrs", "address", "addresses", "host", "ip"];
/// Words that only say what a value is, or that the program listens: two settings of one listener differ in them.
const NEUTRAL: [&str; 15] = [
    "addr",
    "addrs",
    "address",
    "addresses",
    "bind",
    "host",
    "ip",
    "listen",
    "listener",
    "listening",
    "port",
    "ports",
    "secure",
    "server",
    "serve",
];
/// Words that end in "port" and mean none.
const NO_PORT: [&str; 7] = ["export", "import", "passport", "report", "support", "transport", "viewport"];

/// Words that names are glued of, as in `FELIX_PROMETHEUSMETRICSPORT`. Those of other words, such as "rest", are not here.
const GLUED: [&str; 18] = [
    "addr",
    "address",
    "admin",
    "bind",
    "enabled",
    "grpc",
    "health",
    "healthz",
    "http",
    "https",
    "listen",
    "metrics",
    "monitoring",
    "port",
    "prometheus",
    "server",
    "statsd",
    "status",
];

/// The name of a flag or variable, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    words: Vec<String>,
}

/// What the last word of a name says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    /// A port.
    Port,
    /// An address, with or without a port.
    Address,
    /// The name does not say it.
    Unknown,
}

/// What a name says of whose port it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ownership {
    /// Somebody else's, or one that is turned off.
    Foreign,
    /// Nothing.
    Unknown,
    /// Most likely the program's own.
    Served,
    /// The program's own, for those who look after it.
    Observed,
    /// The program's own: the name says that it listens.
    Listening,
}

fn is_one(words: &[&str], word: &str) -> bool {
    words.contains(&word)
}

impl Name {
    /// Splits a name at its punctuation and at its capitals, and glued words too: `FELIX_HEALTHPORT` is felix, health, port.
    pub(super) fn new(name: &str) -> Self {
        let mut words = Vec::new();
        for part in bounded(name).split(|letter: char| !letter.is_ascii_alphanumeric()) {
            for word in capitals(part) {
                unglue(word.to_ascii_lowercase(), &mut words);
            }
        }
        Self { words }
    }

    fn last(&self) -> &str {
        self.words.last().map_or("", String::as_str)
    }

    fn has(&self, words: &[&str]) -> bool {
        self.words.iter().any(|word| is_one(words, word))
    }

    /// Returns what the name says of its value.
    pub(super) fn kind(&self) -> ValueKind {
        match self.last() {
            "port" | "ports" => ValueKind::Port,
            word if is_one(&ADDRESS, word) => ValueKind::Address,
            _ => ValueKind::Unknown,
        }
    }

    /// Checks whether the last word is one that says that the program listens, so that a number is the port.
    pub(super) fn ends_in_listening(&self) -> bool {
        is_one(&LISTENING, self.last())
    }

    /// Checks whether it is `port` and nothing else.
    pub(super) fn is_bare_port(&self) -> bool {
        self.words.len() == 1 && self.kind() == ValueKind::Port
    }

    /// Checks whether the value is a host as clients name it too: `--host`.
    pub(super) fn is_host(&self) -> bool {
        self.last() == "host"
    }

    /// Checks whether the last word is one for a server of operators, which has an address of its own: `--admin`.
    pub(super) fn is_admin(&self) -> bool {
        self.last() == "admin"
    }

    /// Checks whether the value is an address to connect to, as the word for it is: `--prometheus.url`.
    pub(super) fn is_url(&self) -> bool {
        self.has(&["uri", "url"])
    }

    /// Checks whether there is no word in front of what the program serves, such as its own name or another program's.
    pub(super) fn is_unprefixed(&self) -> bool {
        self.words.len() <= 2
    }

    /// Checks whether the name speaks of UDP. Statsd is a protocol over UDP.
    pub(super) fn is_udp(&self) -> bool {
        self.has(&["udp"]) || self.has(&["statsd"]) && !self.has(&["tcp", "web", "http"])
    }

    /// Returns the words that tell one listener of a program from another, for `--metrics-port` and `--metrics-address`.
    pub(super) fn stem(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).filter(|word| !is_one(&NEUTRAL, word)).collect()
    }

    /// Returns the stem of what this name turns on and off, if it does: `ENABLE_METRICS`, `--metrics.enabled`.
    pub(super) fn switched_stem(&self) -> Option<Vec<&str>> {
        let mut stem = self.stem();
        let count = stem.len();
        stem.retain(|word| !is_one(&SWITCHES, word));
        (stem.len() < count && !stem.is_empty()).then_some(stem)
    }

    /// Returns whose port it is, as far as the name says it.
    pub(super) fn ownership(&self) -> Ownership {
        let is_off = self.words.first().is_some_and(|word| is_one(&OFF, word));
        // Clients connect to a port that is one to listen on: `--listen-client-urls`.
        let is_listening = self.has(&LISTENING);
        let foreign = |word: &String| is_one(&FOREIGN, word) && !(is_listening && word == "client");
        if is_off || self.words.iter().any(foreign) {
            return Ownership::Foreign;
        }
        if is_listening {
            return Ownership::Listening;
        }
        let mut rest = self.words.as_slice();
        while let [before @ .., last] = rest
            && (is_one(&ADDRESS, last) || matches!(last.as_str(), "port" | "ports"))
        {
            rest = before;
        }
        match rest {
            [] => return Ownership::Served,
            [only] if only == "server" => {
                return if self.kind() == ValueKind::Port { Ownership::Served } else { Ownership::Unknown };
            }
            [before @ .., last] if last == "server" => rest = before,
            _ => {}
        }
        match rest.last().map(String::as_str) {
            Some(word) if is_one(&OBSERVED, word) => Ownership::Observed,
            Some(word) if is_one(&SERVED, word) && word != "server" => Ownership::Served,
            _ => Ownership::Unknown,
        }
    }
}

fn bounded(name: &str) -> &str {
    name.get(..MAX_NAME).unwrap_or(if name.len() <= MAX_NAME { name } else { "" })
}

/// Splits `httpListenAddr` and `HTTPAddr` at their capitals; a word in capitals only stays whole.
fn capitals(part: &str) -> Vec<&str> {
    let bytes = part.as_bytes();
    let mut words = Vec::new();
    let mut begin = 0;
    for place in 1..bytes.len() {
        let (before, at) = (bytes[place - 1], bytes[place]);
        let next_is_small = bytes.get(place + 1).is_some_and(u8::is_ascii_lowercase);
        if at.is_ascii_uppercase() && (!before.is_ascii_uppercase() || next_is_small) {
            words.push(&part[begin..place]);
            begin = place;
        }
    }
    words.push(&part[begin..]);
    words
}

/// Adds the words of which a word is made: those of this module that it ends in, and what is left.
fn unglue(word: String, words: &mut Vec<String>) {
    if word.is_empty() {
        return;
    }
    let known = |word: &str| {
        [&SERVED[..], &OBSERVED, &LISTENING, &FOREIGN, &OFF, &ADDRESS, &NEUTRAL, &NO_PORT]
            .iter()
            .any(|list| is_one(list, word))
    };
    if known(&word) {
        words.push(word);
        return;
    }
    let end = GLUED.into_iter().filter(|end| word.ends_with(end)).max_by_key(|end| end.len());
    match end.and_then(|end| word.strip_suffix(end)).map(str::len).filter(|length| *length > 1) {
        Some(length) => {
            unglue(word[..length].to_owned(), words);
            words.push(word[length..].to_owned());
        }
        None => words.push(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_words() {
        for (name, words) in [
            ("--web.listen-address", "web listen address"),
            ("httpListenAddr", "http listen addr"),
            ("HTTPAddr", "http addr"),
            ("FELIX_PROMETHEUSMETRICSPORT", "felix prometheus metrics port"),
            ("metricsport", "metrics port"),
            ("--native-transport-port", "native transport port"),
            ("REPORT", "report"),
            ("airport", "air port"),
            ("server.port", "server port"),
            ("--", ""),
            ("é-port", "port"),
        ] {
            assert_eq!(Name::new(name).words.join(" "), words, "{name}");
        }
        assert!(Name::new(&"port-".repeat(10_000)).words.len() <= MAX_NAME);
        assert_eq!(Name::new(&"é".repeat(MAX_NAME)).words, [""; 0]);
    }

    #[test]
    fn names_say_whose_port_it_is() {
        use Ownership::{Foreign, Listening, Observed, Served, Unknown};
        for (name, ownership) in [
            ("--port", Served),
            ("PORT", Served),
            ("--secure-port", Served),
            ("SERVER_PORT", Served),
            ("MANAGEMENT_SERVER_PORT", Observed),
            ("--metrics-addr", Observed),
            ("--health-probe-bind-address", Listening),
            ("--listen-client-urls", Listening),
            ("--server-address", Unknown),
            ("ZABBIX_SERVER_PORT", Unknown),
            ("POSTGRES_PORT", Unknown),
            ("REDIS_PORT", Unknown),
            ("SMTP_PORT", Unknown),
            ("KUBERNETES_SERVICE_PORT", Unknown),
            ("--proxy-port", Unknown),
            ("http.proxyPort", Unknown),
            ("--zookeeper", Unknown),
            ("--node-port", Unknown),
            ("--kubelet-port", Foreign),
            ("--apiserver-port", Foreign),
            ("--upstream-http-port", Foreign),
            ("DB_PORT", Foreign),
            ("--dst-port", Foreign),
            ("METRICS_REMOTE_PORT", Foreign),
            ("--target-metrics-port", Foreign),
            ("--advertise-listen-address", Foreign),
            ("--no-metrics-port", Foreign),
            ("--disable-http-port", Foreign),
        ] {
            assert_eq!(Name::new(name).ownership(), ownership, "{name}");
        }
    }

    #[test]
    fn names_that_say_udp_are_udp() {
        for (name, udp) in [
            ("--dns-udp-port", true),
            ("DD_DOGSTATSD_PORT", true),
            ("--statsd.listen-tcp", false),
            ("--dns-tcp-port", false),
        ] {
            assert_eq!(Name::new(name).is_udp(), udp, "{name}");
        }
    }
}
