//! Names of owners.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use jiff::Timestamp;

use super::text::escape;

/// Name of an owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Namespace; empty for the node.
    pub namespace: String,
    /// Name; empty for the node.
    pub name: String,
    /// UID as its object has it; empty for the node.
    pub uid: String,
    /// UID that Events about a mirror pod must carry to be shown: the value of its annotation `config.mirror`. `None` for
    /// other owners.
    pub mirror: Option<String>,
    /// The handover reservation that the owner is, if it is one: then the other fields are those of the pod that is gone.
    pub handover: Option<Box<Handover>>,
    /// The owner is a Service.
    pub service: bool,
}

/// Hashes namespace and name alone, which tell owners apart but for those that follow each other under one name: the
/// deduplicator hashes the caller of every report.
impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespace.hash(state);
        self.name.hash(state);
    }
}

/// Reservation of the ports of a deleted pod for its workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handover {
    /// Kind and name of the workload; `None` for a reservation of an earlier agent, which did not record them.
    pub workload: Option<(String, String)>,
    /// End of the reservation, in microseconds since 1970.
    pub until: i64,
}

impl Name {
    /// Returns the name of the node itself.
    #[must_use]
    pub fn node() -> Self {
        Self {
            namespace: String::new(),
            name: String::new(),
            uid: String::new(),
            mirror: None,
            handover: None,
            service: false,
        }
    }

    /// Returns whether it names the node itself.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.name.is_empty()
    }
}

impl Name {
    /// Returns the end of a sentence that says for whom a port is kept and until when; `None` if the owner is no handover
    /// reservation. Safe to print: `kept for DaemonSet ingress/edge until 12:03:40 (handover grace)`.
    #[must_use]
    pub fn kept_for(&self) -> Option<String> {
        let handover = self.handover.as_ref()?;
        Some(format!("kept for {} until {} (handover grace)", self.workload_name(handover), clock(handover.until)))
    }

    /// Returns the name of the workload, safe to print: `DaemonSet ingress/edge`.
    fn workload_name(&self, handover: &Handover) -> String {
        match &handover.workload {
            Some((kind, name)) => escape(&format!("{kind} {}/{name}", self.namespace)),
            None => escape(&format!("the workload of {}/{}", self.namespace, self.name)),
        }
    }
}

/// Formats the time of day in UTC: `12:03:40`. `wall` is in microseconds since 1970.
fn clock(wall: i64) -> String {
    Timestamp::from_microsecond(wall).unwrap_or_default().strftime("%H:%M:%S").to_string()
}

/// Writes `namespace/name`, safe to print, `Service namespace/name`, `the node`, or the workload of a handover reservation.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_node() {
            return f.pad("the node");
        }
        if let Some(handover) = &self.handover {
            return f.pad(&self.workload_name(handover));
        }
        if self.service {
            return f.pad(&escape(&format!("Service {}/{}", self.namespace, self.name)));
        }
        f.pad(&escape(&format!("{}/{}", self.namespace, self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_named_by_its_workload_and_end() {
        let pod = Name {
            namespace: "ingress".to_owned(),
            name: "edge-x7k2p".to_owned(),
            uid: "u".to_owned(),
            mirror: None,
            handover: None,
            service: false,
        };
        assert_eq!((pod.to_string().as_str(), pod.kept_for()), ("ingress/edge-x7k2p", None));
        let until = 1_700_000_000_000_000;
        let workload = Some(("DaemonSet".to_owned(), "edge".to_owned()));
        let kept = Name { handover: Some(Box::new(Handover { workload, until })), ..pod.clone() };
        assert_eq!(kept.to_string(), "DaemonSet ingress/edge");
        let text = kept.kept_for().unwrap();
        assert_eq!(text, "kept for DaemonSet ingress/edge until 22:13:20 (handover grace)");
        let unknown = Name { handover: Some(Box::new(Handover { workload: None, until })), ..pod };
        assert_eq!(unknown.to_string(), "the workload of ingress/edge-x7k2p");
    }
}
