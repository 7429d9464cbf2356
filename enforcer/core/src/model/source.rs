//! Sources of claims.
//!
//! A [`ClaimOrigin`] delivers owners with their claims, as complete lists and single changes. A [`ClaimSource`] is the
//! place in an object or a flag where one claim is declared, for people.

use std::fmt;

/// Origin of owners and their claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimOrigin {
    /// The agent's own settings: the ports that the node reserves.
    Settings,
    /// The pods of the node, from the API server or a folder of manifests.
    Pods,
    /// The Services of the cluster that take ports of every node.
    Services,
}

impl ClaimOrigin {
    /// Every origin.
    pub const ALL: [Self; 3] = [Self::Settings, Self::Pods, Self::Services];
}

/// Place where a claim is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimSource {
    /// Annotation `port-enforcer.io/ports`.
    Annotation,
    /// Entry in the `ports` of a container.
    HostPort,
    /// Reservation by the node, with `--node-reserved`.
    Reserved,
    /// Port of a Service that is taken on every node.
    NodePort,
    /// Port of a Service on which every node answers a load balancer's health checks.
    HealthCheckNodePort,
    /// Unknown: the claim was in force before the agent started, and the source of pods has not listed its pod yet.
    Recovered,
    /// Probe of a container on the host network: the program most likely listens there. Found by `enforcer check` only;
    /// it never decides about a bind.
    Probe,
    /// Flag of a container on the host network that names a port to listen on. Found by `enforcer check` only, as the
    /// next two are; none of them ever decides about a bind.
    Argument,
    /// Variable of a container on the host network that names a port to listen on.
    Environment,
    /// Annotation `prometheus.io/port` of a pod on the host network. It is no annotation of ours.
    ScrapeAnnotation,
}

impl ClaimSource {
    /// Returns the source's name in messages and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Annotation => "annotation",
            Self::HostPort => "hostPort",
            Self::Reserved => "node-reserved",
            Self::NodePort => "nodePort",
            Self::HealthCheckNodePort => "healthCheckNodePort",
            Self::Recovered => "remembered",
            Self::Probe => "probe",
            Self::Argument => "argument",
            Self::Environment => "environment",
            Self::ScrapeAnnotation => "prometheus.io/port",
        }
    }

    /// Checks whether a claim from this source is likely and not declared.
    #[must_use]
    pub const fn is_likely(self) -> bool {
        matches!(self, Self::Probe) || self.is_guessed()
    }

    /// Checks whether a claim from this source is read from what people wrote for a program, whose rules nobody knows.
    #[must_use]
    pub const fn is_guessed(self) -> bool {
        matches!(self, Self::Argument | Self::Environment | Self::ScrapeAnnotation)
    }
}

impl fmt::Display for ClaimSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
