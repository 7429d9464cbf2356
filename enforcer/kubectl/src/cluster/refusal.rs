//! Answers of the API server that are none, each as one sentence with its remedy.

use enforcer_core::model::text::{escape_bounded, message_with_causes};

use super::connection::Cluster;
use crate::failure::Failure;

/// Longest message of the server that is shown, in characters.
const MAX_MESSAGE: usize = 300;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// Ledgers.
    Ledgers,
    /// Nodes.
    Nodes,
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// Events.
    Events,
    /// Objects that make pods.
    Workloads,
    /// Policy reports, of either API.
    PolicyReports,
}

impl Resource {
    /// Returns the name of the resource as RBAC has it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ledgers => "nodehostports",
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Events => "events",
            Self::Workloads => "workloads",
            Self::PolicyReports => "policy reports",
        }
    }

    /// Returns the API group as people say it.
    const fn group(self) -> &'static str {
        match self {
            Self::Ledgers => " in port-enforcer.io",
            Self::Events => " in events.k8s.io",
            Self::Nodes | Self::Pods | Self::Services | Self::Workloads | Self::PolicyReports => "",
        }
    }

    /// Returns the role that grants reading it, and its file.
    const fn role(self) -> (&'static str, &'static str) {
        match self {
            Self::PolicyReports => ("port-enforcer-policy-reports", "deploy/components/policy-reports/rbac.yaml"),
            _ => ("port-enforcer-reader", "deploy/components/readers/role.yaml"),
        }
    }
}

/// Answer of the API server that is none.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A right is missing.
    Forbidden(Resource),
    /// There is no such object, or no such kind of objects.
    NotFound,
    /// The credentials are not accepted.
    Unauthorized,
    /// Something else.
    Other(String),
}

impl Refusal {
    /// Reads an error of the client.
    pub(crate) fn of(error: &kube::Error, resource: Resource) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                401 => Self::Unauthorized,
                403 => Self::Forbidden(resource),
                404 => Self::NotFound,
                _ => Self::Other(format!("{}: {}", status.code, escape_bounded(&status.message, MAX_MESSAGE))),
            },
            kube::Error::Auth(_) => Self::Unauthorized,
            error => Self::Other(escape_bounded(&message_with_causes(error), MAX_MESSAGE)),
        }
    }

    /// Checks whether a right is missing.
    pub(crate) const fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden(_))
    }

    /// Returns the sentence, for which reading this resource was essential.
    pub(crate) fn into_failure(self, resource: Resource, cluster: &Cluster) -> Failure {
        let Cluster { server, .. } = cluster;
        let name = resource.as_str();
        match self {
            Self::Forbidden(resource) => Failure::privilege(missing_right(resource, server)),
            Self::Unauthorized => Failure::privilege(format!(
                "{server} does not accept the credentials of the kubeconfig; renew them, or choose others with --user or \
                 --context"
            )),
            Self::NotFound => Failure::runtime(format!("{server} has no {name}")),
            Self::Other(why) => {
                Failure::runtime(format!("cannot read {name} from {server}: {why}; check the server and the network"))
            }
        }
    }
}

/// Returns the sentence about a missing right, with what grants it.
pub(crate) fn missing_right(resource: Resource, server: &str) -> String {
    let (name, group, (role, file)) = (resource.as_str(), resource.group(), resource.role());
    format!("{server} does not let you get and list {name}{group}; ask for the ClusterRole {role} ({file})")
}
