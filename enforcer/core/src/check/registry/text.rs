//! A table made from manifests.

use std::{collections::BTreeMap, fmt::Write as _};

use super::table::{API_VERSION, KIND, UserName};
use crate::{
    check::ManifestSet,
    model::{
        port_spec::{Address, PortRange, PortSpec, Protocol},
        text::escape,
    },
    pods::service::ServiceUse,
    yaml::scalar::scalar,
};

/// Beginning of the file.
const HEADER: &str = "\
# Ports of nodes and their users, for: enforcer check --registry FILE
# port: [ADDRESS:]PORT[-PORT][/PROTOCOL]
# user: NAMESPACE/NAME, KIND NAMESPACE/NAME, NAMESPACE/* or node; a list for several
# Of entries that overlap, the one with fewer ports counts.
";

/// Order of the entries.
type EntryKey = (PortRange, Protocol, Address);

/// Returns the users of the ports that new manifests claim: the declared ones, the likely ones, and with `service_lb`
/// those that the load balancer of k3s takes too. In ascending order of ports.
#[must_use]
pub fn registry_users(manifests: &ManifestSet, service_lb: bool) -> Vec<(PortSpec, Vec<String>)> {
    let mut users: BTreeMap<EntryKey, Vec<String>> = BTreeMap::new();
    let mut add = |spec: PortSpec, user: &UserName| {
        users.entry((spec.ports, spec.protocol, spec.address)).or_default().push(escape(&user.to_string()));
    };
    for object in manifests.new_objects() {
        let user = UserName::of_object(object);
        object.claims.iter().for_each(|claim| add(claim.spec, &user));
    }
    for service in manifests.services.iter().filter(|service| !service.existing) {
        let user = UserName::of_service(service);
        let counts = |by: ServiceUse| by != ServiceUse::LoadBalancer || service_lb;
        service.claims.iter().filter(|claim| counts(claim.by)).for_each(|claim| add(claim.spec, &user));
    }
    let entries = users.into_iter().map(|((ports, protocol, address), mut users)| {
        users.sort_unstable();
        users.dedup();
        (PortSpec { protocol, address, ports }, users)
    });
    entries.collect()
}

/// Returns the text of a table with these users.
#[must_use]
pub fn registry_text(users: &[(PortSpec, Vec<String>)]) -> String {
    let mut text = format!("{HEADER}apiVersion: {API_VERSION}\nkind: {KIND}\nports:");
    if users.is_empty() {
        text += " []";
    }
    text.push('\n');
    for (spec, users) in users {
        let names: Vec<String> = users.iter().map(|user| scalar(user)).collect();
        let user = if let [user] = names.as_slice() { user.clone() } else { format!("[{}]", names.join(", ")) };
        writeln!(text, "- port: {}\n  user: {user}", scalar(&spec.to_string()))
            .expect("writing to a string never fails");
    }
    text
}
