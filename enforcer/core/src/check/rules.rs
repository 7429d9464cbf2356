//! Texts about each code as a whole, for tools that show findings of many programs side by side.

use super::finding::{Code, Severity};

/// Description of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name in one word.
    pub name: &'static str,
    /// Description in a few words.
    pub summary: &'static str,
    /// Description of what goes wrong.
    pub description: &'static str,
    /// The way out.
    pub help: &'static str,
    /// Highest severity of its findings.
    pub severity: Severity,
}

impl Code {
    /// Returns the description of the code.
    #[must_use]
    pub const fn rule(self) -> Rule {
        let (name, summary, description, help) = match self {
            Self::Conflict | Self::Shadowed | Self::NodePort | Self::Replicas | Self::Surge | Self::Endpoint => {
                of_several(self)
            }
            Self::Reserved | Self::NodePortRange | Self::Ephemeral | Self::Registry | Self::Quota => of_ports(self),
            Self::Annotation | Self::NoHostNetwork | Self::Misplaced | Self::Port | Self::ApiVersion => {
                of_manifest(self)
            }
            Self::Unreadable
            | Self::Incomplete
            | Self::OtherKind
            | Self::UnknownPorts
            | Self::NotRead
            | Self::Duplicate => of_input(self),
        };
        let severity = match self {
            Self::OtherKind | Self::UnknownPorts | Self::NotRead | Self::Duplicate => Severity::Note,
            Self::Misplaced | Self::NodePortRange | Self::Ephemeral | Self::Endpoint | Self::ApiVersion => {
                Severity::Warning
            }
            _ => Severity::Error,
        };
        Rule { name, summary, description, help, severity }
    }
}

/// Name, summary, description and help.
type Texts = (&'static str, &'static str, &'static str, &'static str);

/// Describes the codes about several pods, or pods and Services.
const fn of_several(code: Code) -> Texts {
    match code {
        Code::Conflict => (
            "HostPortConflict",
            "Two objects whose pods cannot share a node",
            "Both claim one host port. The pod that comes second stays Pending, or starts and cannot bind the port.",
            "Give one of them another port, or nodeSelectors that differ in one label's value.",
        ),
        Code::Shadowed => (
            "ShadowedListener",
            "A listener that gets no traffic",
            "A CNI or a Service forwards the port by packet rules, without a socket. A program that listens on the number \
             gets no packet, and no error says so.",
            "Give one of them another port.",
        ),
        Code::NodePort => (
            "NodePortTwice",
            "A node port that two Services name, or one Service twice",
            "The API server gives a node port to one Service only and refuses the second.",
            "Give one of them another node port, or none: the API server then finds a free one.",
        ),
        Code::Replicas => (
            "TooManyReplicas",
            "More pods than nodes, no two of which can share a node",
            "Every pod of the object claims the same host port, so a node takes one of them. The others stay Pending or \
             cannot bind.",
            "Have no more replicas than nodes, or make it a DaemonSet.",
        ),
        Code::Surge => (
            "UpdateWithoutRoom",
            "A rolling update that needs more nodes than there are",
            "The update starts new pods while the old ones have the host port. Without a free node it waits, or never ends.",
            "Set maxSurge: 0 and maxUnavailable: 1, or strategy type Recreate.",
        ),
        _ => (
            "UnreachableEndpoint",
            "A Service whose connections to pods on the host network do not arrive as meant",
            "An endpoint on the host network is the node's address with a port that one process of the node has, or nobody.",
            "Declare the port in the container, or correct targetPort or the selector.",
        ),
    }
}

/// Describes the codes about ports of somebody else.
const fn of_ports(code: Code) -> Texts {
    match code {
        Code::Reserved => (
            "ReservedPort",
            "A claim on a port of the node or of Kubernetes itself",
            "A component of the node, such as the kubelet or etcd, listens on the port.",
            "Choose another port, or name the ports that the nodes use with --node-reserved.",
        ),
        Code::NodePortRange => (
            "NodePortRange",
            "A claim inside the range for node ports, or a node port outside of it",
            "The API server may give a port of the range to a Service at any time, whose packets then never reach the pod. \
             It refuses a node port outside of the range.",
            "Choose a port outside of the range, or name the range with --service-node-port-range.",
        ),
        Code::Ephemeral => (
            "EphemeralPort",
            "A claim inside the range for outgoing connections",
            "An outgoing connection of the node may have the port when the pod binds it.",
            "Choose a port outside of the range, or reserve it on every node and use --ephemeral-ports none.",
        ),
        Code::Registry => (
            "RegistryMismatch",
            "A port that the registry gives to somebody else or to nobody",
            "The table of ports and their users, which --registry names, does not give the port to the object.",
            "Choose another port, or let the owners of the registry change the entry.",
        ),
        _ => (
            "PortLimit",
            "More ports than a pod may claim",
            "The claim is refused whole: the pod would claim more ports than --max-ports-per-pod, or the label of its \
             namespace, allows.",
            "Claim fewer ports, or raise the limit here and in the agent.",
        ),
    }
}

/// Describes the codes about the fields of one object.
const fn of_manifest(code: Code) -> Texts {
    match code {
        Code::Annotation => (
            "BadAnnotation",
            "A bad item in an annotation, or an annotation that is not text",
            "The item counts for nothing: the pod does not own the port.",
            "Correct the item: [ADDRESS:]PORT[-PORT][/PROTOCOL], separated by commas.",
        ),
        Code::NoHostNetwork => (
            "AnnotationWithoutHostNetwork",
            "The annotation port-enforcer.io/ports on a pod without host network",
            "The annotation counts on pods with hostNetwork: true only.",
            "Set hostNetwork: true, or declare a hostPort and remove the annotation.",
        ),
        Code::Misplaced => (
            "MisplacedAnnotation",
            "The annotation on the object and not on its pod template",
            "Pods get the annotations of the template only, so this one has no effect.",
            "Move it to metadata.annotations of the pod template.",
        ),
        Code::Port => (
            "RefusedPort",
            "A port that the API server or the container runtime refuses",
            "A port, its name, its protocol or its hostIP breaks a rule of Kubernetes, so the object is refused or the pod \
             never starts.",
            "Correct the port as the message says.",
        ),
        _ => (
            "UnservedApiVersion",
            "A kind in a version or group that no API server serves",
            "The object cannot be applied. It is checked as if version and kind were right.",
            "Correct apiVersion and kind.",
        ),
    }
}

/// Describes the codes about what was read.
const fn of_input(code: Code) -> Texts {
    match code {
        Code::Unreadable => (
            "UnreadableManifest",
            "A file or document that cannot be read",
            "Nothing in it is checked.",
            "Correct it, render it first if it is a template, or leave it out.",
        ),
        Code::Incomplete => (
            "IncompleteCheck",
            "Too much to compare",
            "Not everything was compared, so there may be more findings. No baseline accepts this one.",
            "Check fewer manifests at a time: those of one cluster, or of one node pool.",
        ),
        Code::OtherKind => (
            "OtherKind",
            "Pods of a kind that is not of Kubernetes",
            "At most the ports of its pod template are compared.",
            "Check the pods that its controller makes.",
        ),
        Code::UnknownPorts => (
            "UnknownPorts",
            "An object on the host network of which no port is known for certain",
            "What nobody declares is not counted by the scheduler and not checked.",
            "Declare each port in its container, or with the annotation port-enforcer.io/ports.",
        ),
        Code::NotRead => (
            "NotRead",
            "A file or a folder that is not read",
            "It is no manifest, or lies below a folder and --recursive is missing.",
            "Render it first, or name it on the command line.",
        ),
        _ => (
            "DuplicateObject",
            "An object that occurs a second time",
            "The first one was checked, and this one was not compared with others.",
            "Check variants of one object one by one.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A code that falls into the last arm of a table would have the texts of another one.
    #[test]
    fn each_code_has_its_own_texts() {
        let rules = Code::ALL.map(Code::rule);
        let of = |text: fn(&Rule) -> &'static str| rules.iter().map(text).collect::<BTreeSet<_>>().len();
        for count in [of(|rule| rule.name), of(|rule| rule.summary), of(|rule| rule.description)] {
            assert_eq!(count, Code::ALL.len());
        }
        for Rule { name, summary, description, help, .. } in rules {
            assert!(name.chars().all(|character| character.is_ascii_alphabetic()), "{name}");
            assert!(!summary.ends_with('.') && description.ends_with('.') && help.ends_with('.'), "{name}");
        }
    }
}
