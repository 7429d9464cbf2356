//! Names of host processes that hold ports: the cgroup of a socket by its id, and the process that has the socket open.
//!
//! Reading the cgroup tree takes no privilege. The process of a socket is found only where `/proc` shows the processes
//! of the node, and their open files may be read: as root on the node, or in a pod with the node's process ids.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use enforcer_core::{
    cgroups::host_unit::host_unit,
    index::Index,
    model::kernel_ids::{CgroupId, SocketCookie},
    sockets::{BoundSockets, Process, SocketOwner},
};

/// Depth to which the hierarchy is searched.
const SEARCH_DEPTH: usize = 12;
/// Most processes of one cgroup whose open files are read.
const MAX_PROCESSES: usize = 512;
/// Most open files of one process that are read.
const MAX_FILES: usize = 4096;

/// Finds the paths of cgroups in a hierarchy by their ids. The tree below `except`, the pods'
/// cgroup, is left out. Cgroups that are not found are missing in the result.
fn cgroup_paths(hierarchy: &Path, except: &Path, wanted: &HashSet<CgroupId>) -> HashMap<CgroupId, PathBuf> {
    let mut found = HashMap::new();
    let mut folders = vec![(hierarchy.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        if found.len() == wanted.len() {
            break;
        }
        if let Ok(metadata) = fs::metadata(&folder)
            && let id = CgroupId::new(metadata.ino())
            && wanted.contains(&id)
        {
            found.insert(id, folder.clone());
        }
        if depth == SEARCH_DEPTH {
            continue;
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let children = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(children.map(|entry| (entry.path(), depth + 1)).filter(|(path, _)| path != except));
    }
    found
}

/// Finds the processes in a cgroup that have sockets with these inode numbers open. Sockets of which no process can be
/// seen are missing in the result.
fn processes_of(cgroup: &Path, inodes: &HashSet<u32>) -> HashMap<u32, Process> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // A process outside of this pid namespace is 0 (`cgroup_procs_show` in kernel/cgroup/cgroup.c).
    let pids = processes.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0);
    let mut found = HashMap::new();
    for pid in pids.take(MAX_PROCESSES) {
        if found.len() == inodes.len() {
            break;
        }
        let open: Vec<u32> = open_sockets(pid).filter(|inode| inodes.contains(inode)).collect();
        if open.is_empty() {
            continue;
        }
        if let Ok(command) = fs::read_to_string(format!("/proc/{pid}/comm")) {
            let process = Process { pid, command: command.trim_end_matches('\n').to_owned() };
            for inode in open {
                found.entry(inode).or_insert_with(|| process.clone());
            }
        }
    }
    found
}

fn open_sockets(pid: u32) -> impl Iterator<Item = u32> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.take(MAX_FILES).filter_map(|file| {
        let target = fs::read_link(file.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

/// Names of the host processes that hold ports, kept while they hold them.
#[derive(Debug)]
pub struct HostNames {
    /// Mount point of the hierarchy; `None` if there is none.
    hierarchy: Option<PathBuf>,
    /// Cgroup of the pods.
    pods: PathBuf,
    /// Paths of the cgroups that hold ports, `None` for those that were not found.
    paths: HashMap<CgroupId, Option<PathBuf>>,
    /// Sockets whose process was looked for.
    searched: HashSet<SocketCookie>,
}

impl HostNames {
    /// Returns the names below the hierarchy's mount point, without those of the pods below their cgroup.
    #[must_use]
    pub fn new(hierarchy: Option<PathBuf>, pods: PathBuf) -> Self {
        Self { hierarchy, pods, paths: HashMap::new(), searched: HashSet::new() }
    }

    /// Finds names for the sockets that no pod holds, and adds them to the index and to the table.
    pub fn add_to(&mut self, sockets: &mut BoundSockets, index: &mut Index) {
        let Some(hierarchy) = &self.hierarchy else {
            return;
        };
        let mut held: HashMap<CgroupId, Vec<(SocketCookie, Option<u32>)>> = HashMap::new();
        for socket in sockets.iter() {
            if let Some(cgroup) = socket.cgroup
                && sockets.place(socket).party == SocketOwner::Host
            {
                let inode = socket.inode.filter(|_| socket.process.is_none());
                held.entry(cgroup).or_default().push((socket.cookie, inode));
            }
        }
        self.paths.retain(|cgroup, _| held.contains_key(cgroup));
        let missing: HashSet<CgroupId> =
            held.keys().copied().filter(|cgroup| !self.paths.contains_key(cgroup)).collect();
        if !missing.is_empty() {
            let mut found = cgroup_paths(hierarchy, &self.pods, &missing);
            self.paths.extend(missing.into_iter().map(|cgroup| (cgroup, found.remove(&cgroup))));
            let unit = |path: &Path| {
                let below = path.strip_prefix(hierarchy).ok()?;
                host_unit(&format!("/{}", below.display()))
            };
            let units = self.paths.iter().map(|(cgroup, path)| (*cgroup, path.as_deref().and_then(unit)));
            index.set_host_units(units.collect());
        }
        let cookies: HashSet<SocketCookie> = held.values().flatten().map(|(cookie, _)| *cookie).collect();
        self.searched.retain(|cookie| cookies.contains(cookie));
        for (cgroup, held) in held {
            let inodes: HashMap<u32, SocketCookie> = held
                .into_iter()
                .filter(|(cookie, inode)| inode.is_some() && self.searched.insert(*cookie))
                .filter_map(|(cookie, inode)| Some((inode?, cookie)))
                .collect();
            let Some(path) = self.paths.get(&cgroup).and_then(Option::as_ref).filter(|_| !inodes.is_empty()) else {
                continue;
            };
            for (inode, process) in processes_of(path, &inodes.keys().copied().collect()) {
                if let Some(&cookie) = inodes.get(&inode) {
                    sockets.set_process(cookie, process);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _, process};

    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn this_process_is_found_by_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let inode = u32::try_from(fstat(&listener).expect("a socket").st_ino).expect("a number of the kernel");
        assert!(listener.as_raw_fd() > 2);
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("cgroup.procs"), format!("0\n{}\n", process::id())).expect("it is written");
        let found = processes_of(folder.path(), &HashSet::from([inode, 1]));
        assert_eq!(found.keys().collect::<Vec<_>>(), [&inode]);
        assert_eq!(found[&inode].pid, process::id());
        assert!(!found[&inode].command.is_empty());
        drop(listener);
        assert!(processes_of(folder.path(), &HashSet::from([inode])).is_empty());
        assert!(processes_of(Path::new("/nowhere"), &HashSet::from([inode])).is_empty());
    }

    #[test]
    fn folders_are_found_by_their_inode_numbers() {
        let root = tempfile::tempdir().expect("a folder");
        let service = root.path().join("system.slice/docker.service");
        let pod = root.path().join("kubepods.slice/pod");
        for folder in [&service, &pod] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let id = |path: &Path| CgroupId::new(fs::metadata(path).expect("it is there").ino());
        let wanted = HashSet::from([id(&service), id(&pod), CgroupId::new(u64::MAX)]);
        let found = cgroup_paths(root.path(), &root.path().join("kubepods.slice"), &wanted);
        assert_eq!(found, HashMap::from([(id(&service), service)]), "pods have names of their own");
    }
}
