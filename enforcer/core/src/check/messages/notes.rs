//! Notes about what is not read.

use super::{alone, without_positions};
use crate::check::{
    finding::{Code, Finding, Severity},
    object::{OtherKind, Remark},
};

pub(in crate::check) fn remark(remark: &Remark) -> Finding {
    let Remark { place, message, remedy } = remark;
    let mut finding = alone(place.clone(), Code::NotRead, message.clone(), remedy);
    finding.set_subject([without_positions(message).as_str()]);
    Finding { severity: Severity::Note, ..finding }
}

pub(in crate::check) fn other_kind(version: &str, kind: &str, other: &OtherKind) -> Finding {
    let &OtherKind { with_template, compared, .. } = other;
    let objects = if with_template == 1 { "1 object".to_owned() } else { format!("{with_template} objects") };
    let read = match compared {
        0 => "that are not looked at".to_owned(),
        _ if compared == with_template => {
            "of which the ports are compared; replicas and updates are not looked at, because the kind is not of Kubernetes"
                .to_owned()
        }
        _ => format!("of which the ports of {compared} are compared, and the others are not looked at"),
    };
    let message = format!("{objects} of kind {kind} ({version}) with pod templates {read}");
    let remedy = if kind == "Template" {
        "process it first: oc process -f FILE | enforcer check -"
    } else {
        "check the pods that it makes: kubectl get pods -o yaml | enforcer check -"
    };
    let mut finding = alone(other.place.clone(), Code::OtherKind, message, remedy);
    finding.set_subject([version, kind]);
    Finding { severity: Severity::Note, ..finding }
}
