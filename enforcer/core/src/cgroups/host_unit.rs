//! Names of host processes by their cgroups.

use crate::model::text::escape_bounded;

/// Longest name, in characters.
const MAX_NAME: usize = 256;
/// Suffixes of the units that processes run in (systemd.service(5), systemd.scope(5)).
const UNITS: [&str; 2] = [".service", ".scope"];

/// Returns the systemd unit of a cgroup by its path in the hierarchy: `docker.service` of `/system.slice/docker.service`.
/// Where no part of the path is a unit, the path; `None` for the root of the hierarchy, which names nobody. Safe to show.
#[must_use]
pub fn host_unit(path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return None;
    }
    // A service may make cgroups of its own below its unit's.
    let unit =
        path.rsplit('/').find(|part| UNITS.iter().any(|suffix| part.len() > suffix.len() && part.ends_with(suffix)));
    Some(escape_bounded(unit.unwrap_or(path), MAX_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_in_paths() {
        for (path, unit) in [
            ("/system.slice/docker.service", Some("docker.service")),
            ("/system.slice/containerd.service/kubelet", Some("containerd.service")),
            ("/user.slice/user-0.slice/user@0.service/app.slice/app-web.service", Some("app-web.service")),
            ("/user.slice/user-0.slice/session-3.scope", Some("session-3.scope")),
            ("/init.scope", Some("init.scope")),
            ("/docker/5f2b", Some("/docker/5f2b")),
            ("/podruntime/runtime/", Some("/podruntime/runtime")),
            ("/.service", Some("/.service")),
            ("/", None),
            ("", None),
            ("/a\u{1b}[2Jb.service", Some("a\\u{1b}[2Jb.service")),
        ] {
            assert_eq!(host_unit(path).as_deref(), unit, "{path}");
        }
        assert!(host_unit(&format!("/{}", "x".repeat(9999))).is_some_and(|name| name.chars().count() <= MAX_NAME + 1));
    }
}
