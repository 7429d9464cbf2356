//! A status for people.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use jiff::Timestamp;

use enforcer_core::{
    model::text::escape,
    views::{
        node_snapshot::{ClaimRow, HolderRow},
        status::{AgentView, Modes, Status},
    },
};

/// Cell of an unknown or inapplicable value.
const NONE: &str = "-";

const HOLDERS: [&str; 5] = ["ADDRESS", "HOLDER", "ACTIVITY", "SHARES", "AGE"];
const WIDE: [&str; 6] = ["CONTAINER", "COMMAND", "PID", "UID", "CGROUP", "INODE"];

/// Returns all sections. Every text is escaped again: the agent that answered may be another version.
pub(super) fn text(status: &Status, wide: bool) -> String {
    let holder_heads: Vec<&str> = HOLDERS.into_iter().chain(WIDE.into_iter().filter(|_| wide)).collect();
    let left_out = match status.holders_left_out {
        0 => String::new(),
        more => format!("and {more} sockets more\n"),
    };
    let services = match status.claims.iter().filter(|claim| is_of_service(claim)).count() {
        services if services > 0 && !wide => format!("and {services} of Services (-o wide)\n"),
        _ => String::new(),
    };
    let conflicts = status.conflicts.iter().map(|conflict| vec![conflict.kind.clone(), conflict.message.clone()]);
    let counts = (status.counters.iter()).map(|count| {
        vec![count.verdict.clone(), count.reason.clone(), count.protocol.clone(), count.count.to_string()]
    });
    let errors = status.errors.iter().map(|(kind, count)| vec![kind.clone(), count.to_string()]);
    let sections = [
        head(status),
        section("CLAIMS", &["PORTS", "OWNER", "SOURCE", "STANDING", "AGE"], claims(status, wide)),
        services,
        section("HOLDERS", &holder_heads, holders(status, wide)),
        left_out,
        section("CONFLICTS", &["KIND", "WHAT"], conflicts.collect()),
        section("BIND ATTEMPTS", &["VERDICT", "REASON", "PROTOCOL", "COUNT"], counts.collect()),
        section("KERNEL ERRORS", &["KIND", "COUNT"], errors.collect()),
    ];
    sections.concat()
}

fn head(status: &Status) -> String {
    let mut lines: Vec<String> = status.problems.clone();
    lines.push(format!("node {}: {}", status.node, mode(&status.mode, &status.time)));
    if let Some(AgentView { version, since, source, synced, pods, cgroup, pid: _ }) = &status.agent {
        let known = if *synced { "all pods are known" } else { "not all pods are known yet" };
        let age = age(since, &status.time);
        lines.push(format!(
            "agent {version}, up {age}, pods from {source}: {pods}, {known}; judges binds below {cgroup}"
        ));
    }
    let rules = &status.policy;
    let policy = [
        format!("undeclared ports: {}", rules.undeclared),
        format!("on internal errors: {}", rules.on_error),
        format!("scope: {}", rules.scope),
    ];
    let limits = (rules.namespace_max_ports.iter())
        .map(|(namespace, limit)| format!("{limit} ports per pod in namespace {namespace}"));
    lines.push(policy.into_iter().chain(limits).collect::<Vec<_>>().join(", "));
    if let Some(features) = &status.features {
        let yes = |there: bool| if there { "yes" } else { "no" };
        let (errno, v6only) = (yes(features.errno_choice), yes(features.v6only));
        lines.push(format!("kernel: choice of the error number {errno}, sees IPv6-only sockets {v6only}"));
    }
    lines.iter().map(|line| escape(line) + "\n").collect()
}

fn mode(modes: &Modes, now: &str) -> String {
    let Modes { effective, agent, local, namespaces, lease_ends, stale } = modes;
    let mut parts = vec![format!("mode {effective}")];
    match local {
        Some(local) => parts.push(format!("an operator set {local}, the agent's is {agent}")),
        None if agent != effective => parts.push(format!("the agent's is {agent}")),
        None => {}
    }
    for (namespace, mode) in namespaces {
        parts.push(format!("{mode} in namespace {namespace}"));
    }
    match lease_ends {
        Some(ends) if *stale => parts.push(format!("the lease ended {} ago, so nothing is denied", age(ends, now))),
        Some(ends) => parts.push(format!("the lease ends in {}", age(now, ends))),
        None => {}
    }
    parts.join("; ")
}

/// Checks whether it is the claim of a Service in force: a cluster can have thousands, and all nodes have the same.
fn is_of_service(claim: &ClaimRow) -> bool {
    claim.owner.kind == "service" && claim.standing == "inForce"
}

fn claims(status: &Status, wide: bool) -> Vec<Vec<String>> {
    let row = |ClaimRow { ports, owner, source, standing, behind, since, .. }: &ClaimRow| {
        let standing = match (standing.as_str(), behind) {
            ("inForce", _) => "in force".to_owned(),
            (_, Some(other)) => format!("lost to {other}"),
            (other, None) => other.to_owned(),
        };
        let age = since.as_ref().map_or_else(|| NONE.to_owned(), |since| age(since, &status.time));
        vec![ports.clone(), owner.to_string(), source.clone(), standing, age]
    };
    status.claims.iter().filter(|claim| wide || !is_of_service(claim)).map(row).collect()
}

fn holders(status: &Status, wide: bool) -> Vec<Vec<String>> {
    let row = |holder: &HolderRow| {
        let older = if holder.since_is_exact { "" } else { ">" };
        let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
        let mut row = vec![
            holder.target(),
            holder.who.to_string(),
            or_none(holder.activity.clone()),
            shares(holder).to_owned(),
            format!("{older}{}", age(&holder.since, &status.time)),
        ];
        if wide {
            row.extend([
                or_none(holder.container.clone()),
                or_none(holder.command.clone()),
                or_none(holder.pid.map(|pid| pid.to_string())),
                holder.uid.to_string(),
                or_none(holder.cgroup.map(|cgroup| cgroup.to_string())),
                or_none(holder.inode.map(|inode| inode.to_string())),
            ]);
        }
        row
    };
    status.holders.iter().map(row).collect()
}

/// Says whether others may share the port.
fn shares(holder: &HolderRow) -> &'static str {
    match (holder.reuse_port, holder.reuse_address) {
        (Some(true), Some(true)) => "reuseport, reuseaddr",
        (Some(true), _) => "reuseport",
        (_, Some(true)) => "reuseaddr",
        (Some(false), Some(false)) => "no",
        _ => NONE,
    }
}

fn section(title: &str, heads: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return format!("\n{title}: none\n");
    }
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(heads);
    for row in rows {
        table.add_row(row.iter().map(|cell| escape(cell)));
    }
    let lines: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    format!("\n{title}\n{lines}")
}

/// Returns the time between two timestamps, in the format of kubectl.
fn age(from: &str, to: &str) -> String {
    let (Ok(from), Ok(to)) = (from.parse::<Timestamp>(), to.parse::<Timestamp>()) else {
        return NONE.to_owned();
    };
    let seconds = to.as_second().saturating_sub(from.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (to, shown) in [
            ("2026-01-01T00:00:00Z", "0s"),
            ("2026-01-01T00:01:59.9Z", "119s"),
            ("2026-01-01T00:02:00Z", "2m"),
            ("2026-01-01T02:00:00Z", "2h"),
            ("2026-01-03T00:00:00Z", "2d"),
            ("2025-12-31T00:00:00Z", "0s"),
            ("tomorrow", "-"),
        ] {
            assert_eq!(age("2026-01-01T00:00:00Z", to), shown, "{to}");
        }
    }
}
