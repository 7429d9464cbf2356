//! Form of a boot state's JSON. A field that is added, renamed or removed here is another [`VERSION`](super::VERSION).

use std::{borrow::Cow, str::FromStr as _, time::Duration};

use enforcer_ebpf::wire::{Policy, UidForm, UidKey, Undeclared};
use serde::{Deserialize, Serialize};

use super::{BootState, Origin};
use crate::{
    index::{ServicePortsMode, Settings},
    model::{
        digest::Digest,
        mode::{Mode, NamespaceMode},
        name::{Handover, Name},
        now::Now,
        owner::{OwnerClass, OwnerId},
        port_spec::PortSpec,
    },
    plan::{
        owner_record::{OwnerRecord, RecordedOwner},
        recover::RecoveredOwner,
    },
};

/// Name of a field that has no meaning.
type BadField = &'static str;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Content<'a> {
    node: Cow<'a, str>,
    machine_id: Option<Cow<'a, str>>,
    boot_id: Cow<'a, str>,
    /// Microseconds since 1970, as all times here.
    written: i64,
    lease_micros: Option<u64>,
    cgroup: Cow<'a, str>,
    policy: PolicyForm,
    shared_ports: Vec<Text<PortSpec>>,
    reserves_ports: bool,
    settings: SettingsForm<'a>,
    pub(super) owners: Vec<OwnerForm<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyForm {
    mode: Text<Mode>,
    undeclared: UndeclaredForm,
    deny_on_error: bool,
    node_scope: bool,
    errno: u16,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum UndeclaredForm {
    Allow,
    Deny,
    Adopt,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SettingsForm<'a> {
    system_namespaces: Vec<Cow<'a, str>>,
    handover_grace_micros: u64,
    node_reserved: Vec<Text<PortSpec>>,
    namespace_mode: NamespaceModeForm,
    service_ports: ServicePortsForm,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum NamespaceModeForm {
    Any,
    Stricter,
    Off,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ServicePortsForm {
    Off,
    Audit,
    Enforce,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OwnerForm<'a> {
    id: u32,
    subject: SubjectForm<'a>,
    class: ClassForm,
    namespace: Cow<'a, str>,
    name: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<Text<Digest>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<Text<Digest>>,
    #[serde(default, skip_serializing_if = "is_false")]
    terminating: bool,
    /// Mode of the namespace, where it overrides the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Text<Mode>>,
    since: i64,
    claims: Vec<Text<PortSpec>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
enum SubjectForm<'a> {
    Pod {
        uid: Cow<'a, str>,
        key: Text<UidKey>,
        /// Digest of all its claims, in force or not.
        claimed: Text<Digest>,
        #[serde(default, skip_serializing_if = "is_false")]
        terminal: bool,
        #[serde(default, skip_serializing_if = "is_false")]
        ended: bool,
        #[serde(default, skip_serializing_if = "is_false")]
        mirror: bool,
    },
    Reservation {
        until: i64,
        /// Kind and name of the workload.
        workload_name: Option<(String, String)>,
    },
    Service {},
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ClassForm {
    Static,
    System,
    Tenant,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A value that is a text in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Text<T>(T);

/// Conversion of a value to its text and back.
trait AsText: Sized {
    fn to_text(&self) -> String;
    fn from_text(text: &str) -> Option<Self>;
}

impl<T: AsText> Serialize for Text<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_text())
    }
}

impl<'de, T: AsText> Deserialize<'de> for Text<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        T::from_text(&text).map(Self).ok_or_else(|| serde::de::Error::custom("a text has another form"))
    }
}

impl AsText for PortSpec {
    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::from_str(text).ok()
    }
}

impl AsText for Mode {
    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::from_word(text)
    }
}

impl AsText for Digest {
    fn to_text(&self) -> String {
        format!("{self:?}")
    }

    fn from_text(text: &str) -> Option<Self> {
        hex(text).map(Self)
    }
}

impl AsText for UidKey {
    fn to_text(&self) -> String {
        let form = if self.form == UidForm::Static as u8 { "static" } else { "api" };
        format!("{form}:{:032x}", u128::from_be_bytes(self.uid))
    }

    fn from_text(text: &str) -> Option<Self> {
        let (form, digits) = text.split_once(':')?;
        let form = match form {
            "api" => UidForm::Api,
            "static" => UidForm::Static,
            _ => return None,
        };
        Some(Self::new(hex(digits)?, form))
    }
}

/// Reads 32 lower-case hex digits.
fn hex(text: &str) -> Option<[u8; 16]> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 32 || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

impl<'a> Content<'a> {
    pub(super) fn of(state: &'a BootState, now: Now) -> Self {
        let BootState { origin, written, lease, cgroup, policy, shared_ports, reserves_ports, settings, owners } =
            state;
        let owners = owners.iter().filter_map(|owner| OwnerForm::of(owner, now)).collect();
        Self {
            node: origin.node.as_str().into(),
            machine_id: origin.machine.as_deref().map(Cow::from),
            boot_id: origin.boot.as_str().into(),
            written: *written,
            lease_micros: lease.map(|lease| u64::try_from(lease.as_micros()).unwrap_or(u64::MAX)),
            cgroup: cgroup.as_str().into(),
            policy: PolicyForm::of(*policy),
            shared_ports: shared_ports.iter().copied().map(Text).collect(),
            reserves_ports: *reserves_ports,
            settings: SettingsForm::of(settings),
            owners,
        }
    }

    pub(super) fn state(self, now: Now) -> Result<BootState, BadField> {
        let owners = self.owners.into_iter().map(|owner| owner.owner(now)).collect::<Result<_, _>>()?;
        if self.cgroup.split('/').any(|segment| matches!(segment, "." | "..")) || self.cgroup.contains('\0') {
            return Err("cgroup");
        }
        Ok(BootState {
            origin: Origin {
                node: self.node.into_owned(),
                machine: self.machine_id.map(Cow::into_owned),
                boot: self.boot_id.into_owned(),
            },
            written: self.written,
            lease: self.lease_micros.map(Duration::from_micros),
            cgroup: self.cgroup.into_owned(),
            policy: self.policy.policy(),
            shared_ports: self.shared_ports.into_iter().map(|Text(spec)| spec).collect(),
            reserves_ports: self.reserves_ports,
            settings: self.settings.settings(),
            owners,
        })
    }
}

impl PolicyForm {
    fn of(policy: Policy) -> Self {
        Self {
            mode: Text(if policy.enforce { Mode::Enforce } else { Mode::Audit }),
            undeclared: match policy.undeclared {
                Undeclared::Allow => UndeclaredForm::Allow,
                Undeclared::Deny => UndeclaredForm::Deny,
                Undeclared::Adopt => UndeclaredForm::Adopt,
            },
            deny_on_error: policy.deny_on_error,
            node_scope: policy.node_scope,
            errno: policy.errno,
        }
    }

    fn policy(self) -> Policy {
        Policy {
            enforce: self.mode.0 == Mode::Enforce,
            undeclared: match self.undeclared {
                UndeclaredForm::Allow => Undeclared::Allow,
                UndeclaredForm::Deny => Undeclared::Deny,
                UndeclaredForm::Adopt => Undeclared::Adopt,
            },
            deny_on_error: self.deny_on_error,
            report_attempts: false,
            report_bound: true,
            node_scope: self.node_scope,
            errno: self.errno,
        }
    }
}

impl<'a> SettingsForm<'a> {
    fn of(settings: &'a Settings) -> Self {
        Self {
            system_namespaces: settings.system_namespaces.iter().map(|name| name.as_str().into()).collect(),
            handover_grace_micros: u64::try_from(settings.handover_grace.as_micros()).unwrap_or(u64::MAX),
            node_reserved: settings.node_reserved.iter().copied().map(Text).collect(),
            namespace_mode: match settings.namespace_mode {
                NamespaceMode::Any => NamespaceModeForm::Any,
                NamespaceMode::Stricter => NamespaceModeForm::Stricter,
                NamespaceMode::Off => NamespaceModeForm::Off,
            },
            service_ports: match settings.service_ports {
                ServicePortsMode::Off => ServicePortsForm::Off,
                ServicePortsMode::Audit => ServicePortsForm::Audit,
                ServicePortsMode::Enforce => ServicePortsForm::Enforce,
            },
        }
    }

    fn settings(self) -> Settings {
        Settings {
            system_namespaces: self.system_namespaces.into_iter().map(Cow::into_owned).collect(),
            handover_grace: Duration::from_micros(self.handover_grace_micros),
            node_reserved: self.node_reserved.into_iter().map(|Text(spec)| spec).collect(),
            namespace_mode: match self.namespace_mode {
                NamespaceModeForm::Any => NamespaceMode::Any,
                NamespaceModeForm::Stricter => NamespaceMode::Stricter,
                NamespaceModeForm::Off => NamespaceMode::Off,
            },
            service_ports: match self.service_ports {
                ServicePortsForm::Off => ServicePortsMode::Off,
                ServicePortsForm::Audit => ServicePortsMode::Audit,
                ServicePortsForm::Enforce => ServicePortsMode::Enforce,
            },
            ..Settings::default()
        }
    }
}

impl<'a> OwnerForm<'a> {
    /// Returns the form of an owner; `None` for the node, which claims what the settings say.
    fn of(owner: &'a RecoveredOwner, now: Now) -> Option<Self> {
        let RecoveredOwner { id, cgroup: _, record, claims } = owner;
        let OwnerRecord { subject, class, name, group, workload, terminating, mode, since } = record;
        let subject = match subject {
            RecordedOwner::Node => return None,
            RecordedOwner::Pod { key, claims, terminal, ended, mirror } => SubjectForm::Pod {
                uid: name.uid.as_str().into(),
                key: Text(*key),
                claimed: Text(*claims),
                terminal: *terminal,
                ended: *ended,
                mirror: *mirror,
            },
            RecordedOwner::HandoverReservation { until } => SubjectForm::Reservation {
                until: time_of_day(*until, now),
                workload_name: name.handover.as_ref().and_then(|handover| handover.workload.clone()),
            },
            RecordedOwner::Service => SubjectForm::Service {},
        };
        Some(Self {
            id: id.get(),
            subject,
            class: match class {
                OwnerClass::Node => return None,
                OwnerClass::Static => ClassForm::Static,
                OwnerClass::System => ClassForm::System,
                OwnerClass::Tenant => ClassForm::Tenant,
            },
            namespace: name.namespace.as_str().into(),
            name: name.name.as_str().into(),
            group: group.map(Text),
            workload: workload.map(Text),
            terminating: *terminating,
            mode: mode.map(Text),
            since: *since,
            claims: claims.iter().copied().map(Text).collect(),
        })
    }

    fn owner(self, now: Now) -> Result<RecoveredOwner, BadField> {
        let id = OwnerId::new(self.id).ok_or("owner's id")?;
        let mut name = Name { namespace: self.namespace.into_owned(), name: self.name.into_owned(), ..Name::node() };
        if name.is_node() {
            return Err("owner's name");
        }
        let subject = match self.subject {
            SubjectForm::Pod { uid, key: Text(key), claimed: Text(claims), terminal, ended, mirror } => {
                name.uid = uid.into_owned();
                name.mirror = mirror.then(|| format!("{:032x}", u128::from_be_bytes(key.uid)));
                RecordedOwner::Pod { key, claims, terminal, ended, mirror }
            }
            SubjectForm::Reservation { until, workload_name } => {
                name.handover = Some(Box::new(Handover { workload: workload_name, until }));
                RecordedOwner::HandoverReservation { until: since_boot(until, now) }
            }
            SubjectForm::Service {} => {
                name.service = true;
                RecordedOwner::Service
            }
        };
        let record = OwnerRecord {
            subject,
            class: match self.class {
                ClassForm::Static => OwnerClass::Static,
                ClassForm::System => OwnerClass::System,
                ClassForm::Tenant => OwnerClass::Tenant,
            },
            name,
            group: self.group.map(|Text(digest)| digest),
            workload: self.workload.map(|Text(digest)| digest),
            terminating: self.terminating,
            mode: self.mode.map(|Text(mode)| mode),
            since: self.since,
        };
        // The record is what the agent after this finds in the kernel.
        if record.encode().is_none() {
            return Err("owner's name");
        }
        let claims = self.claims.into_iter().map(|Text(spec)| spec).collect();
        Ok(RecoveredOwner { id, cgroup: None, record, claims })
    }
}

/// Returns the time of day of a time since boot.
fn time_of_day(boottime: Duration, now: Now) -> i64 {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    now.wall.saturating_add(micros(boottime).saturating_sub(micros(now.boottime)))
}

/// Returns the time since boot of a time of day: zero if it was before the boot.
fn since_boot(wall: i64, now: Now) -> Duration {
    let left = wall.saturating_sub(now.wall);
    if left >= 0 {
        now.boottime.saturating_add(Duration::from_micros(left.unsigned_abs()))
    } else {
        now.boottime.saturating_sub(Duration::from_micros(left.unsigned_abs()))
    }
}
