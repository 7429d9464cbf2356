//! The state of the node without an agent: from the pinned maps, the cgroup tree and the kernel's socket diagnostics.
//! Nothing is changed.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use enforcer_ebpf::decide::ModeOverride;

use enforcer_core::{
    index::{Index, Settings},
    model::{kernel_ids::BootNanos, now::Now, owner::OwnerClass},
    plan::owner_record::RecordedOwner,
    sockets::{BoundSockets, SocketLimits, SocketPlace},
    views::{
        node_snapshot::NodeSnapshot,
        status::{Status, StatusInputs},
    },
};

use crate::{
    agent::reconcile,
    cli::{Failure, admin::AgentUnavailable, host_name::host_name, mode::pin_failure},
    host::{
        cgroup::{CgroupError, MOUNTINFO, Root, scan},
        clock::now,
        host_processes::HostNames,
        sock_diag,
    },
    kernel::pins::{PinnedState, read_pinned},
};

/// Handover grace: long enough for any that an agent granted.
const GRACE: Duration = Duration::from_hours(24);

/// The pinned state, in the form in which an agent has it.
pub(super) struct Pinned {
    node: String,
    index: Index,
    holders: BoundSockets,
    survey: PinnedState,
    problems: Vec<String>,
    now: Now,
}

/// Reads the pinned state of the folder, after no agent answered.
pub(super) fn read(folder: &Path, no_answer: AgentUnavailable) -> Result<Pinned, Failure> {
    let why = match no_answer {
        AgentUnavailable::NotListening(why) => why,
        AgentUnavailable::Failed(failure) => return Err(failure),
    };
    let Some(mut survey) = read_pinned(folder).map_err(|error| pin_failure(&error))? else {
        return Err(Failure::runtime(format!(
            "no agent answers ({why}), and no programs are pinned in {}: binds are not judged on this node; start the agent \
             (enforcer run), or name its socket with --admin-socket",
            folder.display()
        )));
    };
    let mut problems = vec![format!(
        "no agent answers ({why}): this is the state pinned in {}; claims that are not in force, and the sources of \
         claims, are unknown",
        folder.display()
    )];
    let now = now();
    let (mut index, unread) = index(&mut survey, now);
    problems.extend(
        unread.map(|error| format!("cannot read the cgroup tree, so the pods of processes are unknown: {error}")),
    );
    let mut holders = BoundSockets::new(SocketLimits::default(), sock_diag::shows_bound().unwrap_or(false));
    let read_at = || BootNanos::after_boot(now.boottime);
    let done = reconcile(&mut holders, read_at, |cgroup| SocketPlace::of(cgroup, &index));
    let hierarchy = Root::hierarchy(Path::new(MOUNTINFO)).ok().map(|root| root.path);
    // Cgroups of pods are known by now, so that none has to be left out.
    HostNames::new(hierarchy, PathBuf::new()).add_to(&mut holders, &mut index);
    holders.resolve(|cgroup| SocketPlace::of(cgroup, &index));
    problems.extend(done.errors.iter().map(ToString::to_string));
    Ok(Pinned { node: host_name(), index, holders, survey, problems, now })
}

/// Returns the index that an agent would start with, except that a missing cgroup ends no pod.
fn index(survey: &mut PinnedState, now: Now) -> (Index, Option<CgroupError>) {
    let remembered = std::mem::take(&mut survey.recalled.owners);
    let mut settings = Settings { handover_grace: GRACE, system_namespaces: BTreeSet::new(), ..Settings::default() };
    for owner in &remembered {
        if owner.record.class == OwnerClass::System {
            settings.system_namespaces.insert(owner.record.name.namespace.clone());
        }
        if owner.record.subject == RecordedOwner::Node {
            settings.node_reserved.extend(&owner.claims);
        }
    }
    let mut index = Index::new(settings, survey.root_cgroup);
    index.restore(remembered, survey.restored_from, now);
    let entries = match Root::hierarchy(Path::new(MOUNTINFO)).and_then(|root| scan(&root)) {
        Ok(entries) => entries,
        Err(error) => return (index, Some(error)),
    };
    let mut below = HashSet::from([survey.root_cgroup]);
    for entry in entries {
        if below.contains(&entry.parent) {
            below.insert(entry.id);
            index.cgroup_created(entry.id, entry.parent, &entry.name, now);
        }
    }
    (index, None)
}

impl Pinned {
    pub(super) fn snapshot(&self) -> NodeSnapshot<'_> {
        let deadline = self.survey.lease_deadline;
        let stale = deadline.is_some_and(|deadline| deadline.since_boot() < self.now.boottime);
        NodeSnapshot {
            node: &self.node,
            index: &self.index,
            holders: &self.holders,
            policy: self.survey.policy,
            overrule: ModeOverride { local: self.survey.local, stale },
            // Only an agent knows.
            shared: &[],
            answered: None,
            now: self.now,
        }
    }

    /// Limits of this view, to be shown first.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(super) fn status(&self) -> Status {
        let counters = &self.survey.counters;
        let facts = StatusInputs {
            agent: None,
            features: None,
            lease_deadline: self.survey.lease_deadline,
            attempts: &|verdict, reason, protocol| counters.attempts(verdict, reason, protocol),
            errors: &|error| counters.errors(error),
            failing: None,
            problems: self.problems.clone(),
        };
        Status::of(&self.snapshot(), facts)
    }
}
