//! Offsets of the few fields that the programs read, from the BTF of the running kernel.
//!
//! Format: Documentation/bpf/btf.rst in the kernel sources. Only what is needed is read: names of structures and their
//! direct members. No crate does it better: `btf-rs` is under the LGPL, which a static binary under MIT or Apache-2.0
//! does not go with, and `btfparse` builds all types of the kernel in memory, where this reads a few names in place.

use std::{fs, io, path::Path};

/// Type information of the running kernel.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Error of reading offsets.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error(
        "cannot read the kernel's type information {VMLINUX}: {0}; a kernel built with CONFIG_DEBUG_INFO_BTF has it"
    )]
    Read(#[from] io::Error),
    /// The file is not BTF.
    #[error("{VMLINUX} is not valid BTF: {0}")]
    Malformed(&'static str),
    /// A structure or member that every supported kernel has is not there.
    #[error("this kernel's type information has no {0}")]
    Missing(&'static str),
}

/// Byte offsets in structures of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The byte of `struct sock_common` with `skc_reuse` (bits 0–3), `skc_reuseport` (4) and `skc_ipv6only` (5).
    pub sock_flags: u32,
    /// Bit offset of `sk_kern_sock` in `struct sock`.
    pub kern_sock_bit: u32,
    /// `skc_bound_dev_if` in `struct sock_common`.
    pub bound_dev: u32,
    /// `skc_num` in `struct sock_common`.
    pub sock_num: u32,
    /// Offsets of what programs read of sockets only without a helper; `None` where the kernel lacks one of them.
    pub loads: Option<LoadOffsets>,
    /// Offsets in tasks; `None` where the kernel was built with `CONFIG_RANDSTRUCT`.
    pub task: Option<TaskOffsets>,
    /// Offsets in MPTCP sockets; `None` where the kernel has no MPTCP.
    pub mptcp: Option<MptcpOffsets>,
    /// Flag for a denying `post_bind` that gives the port back, and so really denies: since 5.17, when `struct proto`
    /// got a `put_port` for it.
    pub post_bind_denies: bool,
    /// `level` and `ancestors` in `struct cgroup`; `None` where the kernel has no such array (before 6.1), or has it in a
    /// place that is not read here.
    pub cgroup_ancestors: Option<(u32, u32)>,
    /// `kn` in `struct cgroup`.
    pub cgroup_kn: u32,
    /// `root` in `struct cgroup`.
    pub cgroup_root: u32,
    /// `hierarchy_id` in `struct cgroup_root`.
    pub root_hierarchy: u32,
    /// `id` in `struct kernfs_node`.
    pub kn_id: u32,
    /// `name` in `struct kernfs_node`.
    pub kn_name: u32,
    /// `parent`, since 6.15 `__parent`, in `struct kernfs_node`.
    pub kn_parent: u32,
}

/// Byte offsets of the fields of a socket that programs read without a helper, and that helpers return elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOffsets {
    /// `skc_cookie` in `struct sock_common`.
    pub cookie: u32,
    /// `skc_net` in `struct sock_common`.
    pub net: u32,
    /// `net_cookie` in `struct net`.
    pub net_cookie: u32,
    /// `sk_bpf_storage` in `struct sock`.
    pub storage: u32,
}

/// Byte offsets of the fields of a task that programs read without a helper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOffsets {
    /// `tgid` in `struct task_struct`.
    pub tgid: u32,
    /// `comm` in `struct task_struct`.
    pub comm: u32,
    /// `cred` in `struct task_struct`.
    pub cred: u32,
    /// `uid` in `struct cred`.
    pub uid: u32,
    /// `cgroups` in `struct task_struct`.
    pub css_set: u32,
    /// `dfl_cgrp` in `struct css_set`.
    pub css_set_cgroup: u32,
}

/// Byte offsets on the way from the subflow of an MPTCP socket to that socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MptcpOffsets {
    /// `is_mptcp` in `struct tcp_sock`.
    pub is_mptcp: u32,
    /// `icsk_ulp_data` in `struct inet_connection_sock`.
    pub ulp_data: u32,
    /// `conn` in `struct mptcp_subflow_context`.
    pub conn: u32,
}

impl Offsets {
    /// Reads the offsets of the running kernel.
    ///
    /// # Errors
    ///
    /// If the kernel has no BTF or lacks a field.
    pub fn of_running_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new(VMLINUX))
    }

    fn read(path: &Path) -> Result<Self, BtfError> {
        let bytes = fs::read(path)?;
        let btf = Btf::new(&bytes)?;
        let member = |structure, names: &[&str], missing| {
            btf.member_bits(structure, names)?.map(|bits| bits / 8).ok_or(BtfError::Missing(missing))
        };
        let known = |structure, name| Ok::<_, BtfError>(btf.member_bits(structure, &[name])?.map(|bits| bits / 8));
        let mptcp = match (
            known("tcp_sock", "is_mptcp")?,
            known("inet_connection_sock", "icsk_ulp_data")?,
            known("mptcp_subflow_context", "conn")?,
        ) {
            (Some(is_mptcp), Some(ulp_data), Some(conn)) => Some(MptcpOffsets { is_mptcp, ulp_data, conn }),
            _ => None,
        };
        let task = |name| known("task_struct", name);
        let cgroups = (task("cgroups")?, known("css_set", "dfl_cgrp")?);
        let task = match (task("tgid")?, task("comm")?, task("cred")?, known("cred", "uid")?, cgroups) {
            (Some(tgid), Some(comm), Some(cred), Some(uid), (Some(css_set), Some(css_set_cgroup))) => {
                Some(TaskOffsets { tgid, comm, cred, uid, css_set, css_set_cgroup })
            }
            _ => None,
        };
        let common = |name| known("sock_common", name);
        let storage = known("sock", "sk_bpf_storage")?;
        let loads = match (common("skc_cookie")?, common("skc_net")?, known("net", "net_cookie")?, storage) {
            (Some(cookie), Some(net), Some(net_cookie), Some(storage)) => {
                Some(LoadOffsets { cookie, net, net_cookie, storage })
            }
            _ => None,
        };
        let kern_sock = btf.member_bits("sock", &["sk_kern_sock"])?;
        Ok(Self {
            kern_sock_bit: kern_sock.ok_or(BtfError::Missing("sock.sk_kern_sock"))?,
            bound_dev: member("sock_common", &["skc_bound_dev_if"], "sock_common.skc_bound_dev_if")?,
            // In a union without a name, which the field after it, and all that compares ports and families at once,
            // keeps in its place (`struct sock_common` in include/net/sock.h).
            sock_num: member("sock_common", &["skc_family"], "sock_common.skc_family")? - 2,
            loads,
            task,
            mptcp,
            // `inet_bind` gives the port back through this member (__inet_bind in net/ipv4/af_inet.c).
            post_bind_denies: btf.member_bits("proto", &["put_port"])?.is_some(),
            sock_flags: member("sock_common", &["skc_ipv6only"], "sock_common.skc_ipv6only")?,
            cgroup_ancestors: known("cgroup", "level")?.zip(known("cgroup", "ancestors")?),
            cgroup_kn: member("cgroup", &["kn"], "cgroup.kn")?,
            cgroup_root: member("cgroup", &["root"], "cgroup.root")?,
            root_hierarchy: member("cgroup_root", &["hierarchy_id"], "cgroup_root.hierarchy_id")?,
            kn_id: member("kernfs_node", &["id"], "kernfs_node.id")?,
            kn_name: member("kernfs_node", &["name"], "kernfs_node.name")?,
            kn_parent: member("kernfs_node", &["parent", "__parent"], "kernfs_node.parent")?,
        })
    }
}

/// Returns the id of a function's type in the running kernel, by which a program names what it is attached to.
///
/// # Errors
///
/// If the kernel has no BTF.
pub(super) fn function_id(name: &str) -> Result<Option<u32>, BtfError> {
    let bytes = fs::read(VMLINUX)?;
    Btf::new(&bytes)?.id(KIND_FUNC, name)
}

/// Returns the ids of a function and of structures of the running kernel, if it has all of them.
///
/// # Errors
///
/// If the kernel has no BTF.
pub(super) fn ids<const N: usize>(function: &str, structures: [&str; N]) -> Result<Option<(u32, [u32; N])>, BtfError> {
    let bytes = fs::read(VMLINUX)?;
    let btf = Btf::new(&bytes)?;
    let Some(function) = btf.id(KIND_FUNC, function)? else { return Ok(None) };
    let mut ids = [0; N];
    for (id, name) in ids.iter_mut().zip(structures) {
        let Some(found) = btf.id(KIND_STRUCT, name)? else { return Ok(None) };
        *id = found;
    }
    Ok(Some((function, ids)))
}

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
const KIND_LAST: u32 = KIND_ENUM64;

/// Type: its kind, the offset of its name, whether its members have offsets of bit fields, and its members, if any.
struct Type<'a> {
    kind: u32,
    name: u32,
    bitfields: bool,
    members: &'a [u8],
}

/// BTF in memory: the type section and the string section.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, BtfError> {
        if word16(bytes, 0)? != 0xeb9f {
            return Err(BtfError::Malformed("wrong magic number"));
        }
        let header = word(bytes, 4)?;
        let section = |offset: usize, length: usize| {
            let start = header as usize + word(bytes, offset)? as usize;
            bytes.get(start..start + word(bytes, length)? as usize).ok_or(BtfError::Malformed("section out of bounds"))
        };
        Ok(Self { types: section(8, 12)?, strings: section(16, 20)? })
    }

    /// Reads the type at this place. Also returns where the next one begins.
    fn type_at(&self, at: usize) -> Result<(Type<'a>, usize), BtfError> {
        let info = word(self.types, at + 4)?;
        let (kind, count, bitfields) = (info >> 24 & 0x1f, (info & 0xffff) as usize, info >> 31 == 1);
        let extra = match kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
            KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
            _ if kind <= KIND_LAST => 0,
            _ => return Err(BtfError::Malformed("a kind of type that this reader does not know")),
        };
        let begin = at + 12;
        let members = self.types.get(begin..begin + extra).ok_or(BtfError::Malformed("cut short"))?;
        Ok((Type { kind, name: word(self.types, at)?, bitfields, members }, begin + extra))
    }

    /// Returns the offset in bits of the first of the `names` that is a direct member of the structure.
    fn member_bits(&self, structure: &str, names: &[&str]) -> Result<Option<u32>, BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let (Type { kind, name, bitfields, members }, next) = self.type_at(at)?;
            if kind == KIND_STRUCT && !members.is_empty() && self.is(name, structure) {
                for member in (0..members.len()).step_by(12) {
                    let name = word(members, member)?;
                    if names.iter().any(|wanted| self.is(name, wanted)) {
                        let offset = word(members, member + 8)?;
                        // With `kind_flag` set the upper byte is the width of a bit field.
                        return Ok(Some(if bitfields { offset & 0x00ff_ffff } else { offset }));
                    }
                }
                return Ok(None);
            }
            at = next;
        }
        Ok(None)
    }

    /// Returns the id of the type of this kind and name: types are numbered from 1, in their order in the file.
    fn id(&self, wanted_kind: u32, wanted: &str) -> Result<Option<u32>, BtfError> {
        let mut at = 0;
        for id in 1.. {
            if at >= self.types.len() {
                break;
            }
            let (Type { kind, name, .. }, next) = self.type_at(at)?;
            if kind == wanted_kind && self.is(name, wanted) {
                return Ok(Some(id));
            }
            at = next;
        }
        Ok(None)
    }

    fn is(&self, name: u32, wanted: &str) -> bool {
        self.strings
            .get(name as usize..)
            .is_some_and(|rest| rest.starts_with(wanted.as_bytes()) && rest.get(wanted.len()) == Some(&0))
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(BtfError::Malformed("cut short"))?;
    Ok(u32::from_ne_bytes(*chunk))
}

fn word16(bytes: &[u8], at: usize) -> Result<u16, BtfError> {
    let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(BtfError::Malformed("cut short"))?;
    Ok(u16::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns a BTF file with `struct s { int a; unsigned b:4, c:1; }` and a function `c`.
    fn sample() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0c\0int\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([9, KIND_INT << 24, 4, 32]);
        types.extend([1, 1 << 31 | KIND_STRUCT << 24 | 3, 8]);
        types.extend([3, 1, 0]);
        types.extend([5, 1, 4 << 24 | 0x20]);
        types.extend([7, 1, 1 << 24 | 0x24]);
        types.extend([7, KIND_FUNC << 24, 0]);
        let type_bytes: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut file = Vec::new();
        file.extend(0xeb9f_u16.to_ne_bytes());
        file.extend([1, 0]);
        let lengths = [24, 0, type_bytes.len(), type_bytes.len(), strings.len()];
        file.extend(lengths.into_iter().flat_map(|length| u32::try_from(length).unwrap().to_ne_bytes()));
        file.extend(type_bytes);
        file.extend(strings);
        file
    }

    #[test]
    fn finds_members_and_bit_fields() {
        let file = sample();
        let btf = Btf::new(&file).unwrap();
        assert_eq!(btf.member_bits("s", &["a"]).unwrap(), Some(0));
        assert_eq!(btf.member_bits("s", &["b"]).unwrap(), Some(32));
        assert_eq!(btf.member_bits("s", &["nothing", "c"]).unwrap(), Some(36));
        assert_eq!(btf.member_bits("s", &["d"]).unwrap(), None);
        assert_eq!(btf.member_bits("t", &["a"]).unwrap(), None);
        assert_eq!(btf.id(KIND_FUNC, "c").unwrap(), Some(3));
        assert_eq!(btf.id(KIND_FUNC, "s").unwrap(), None);
        assert_eq!(btf.id(KIND_STRUCT, "s").unwrap(), Some(2));
        assert_eq!(btf.id(KIND_STRUCT, "c").unwrap(), None);
    }

    proptest! {
        #[test]
        fn rubbish_is_an_error_not_a_panic(mut file in Just(sample()), at in 0usize..112, byte in any::<u8>(), cut in 0usize..112) {
            let at = at % file.len();
            file[at] = byte;
            file.truncate(file.len() - cut.min(file.len()));
            if let Ok(btf) = Btf::new(&file) {
                let _ = (btf.member_bits("s", &["c"]), btf.id(KIND_FUNC, "a"));
            }
        }
    }
}
