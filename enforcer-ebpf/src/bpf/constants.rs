//! Constants that the agent puts into the object before it loads it: [`enforcer_ebpf::wire::Constant`].

use core::arch::asm;

use enforcer_ebpf::wire;

/// Constant with this placeholder.
#[derive(Clone, Copy)]
pub(crate) struct Constant<const PLACEHOLDER: i32>;

impl<const PLACEHOLDER: i32> Constant<PLACEHOLDER> {
    /// Returns the value.
    #[expect(clippy::unused_self, reason = "what is asked for is in the type, and the constants have names")]
    #[inline(always)]
    pub(crate) fn get(self) -> u64 {
        let value;
        // Not `pure`: the compiler would keep the number on the stack between two uses, which costs more than to move it
        // again.
        // SAFETY: moves a number to a register.
        unsafe { asm!("{} = {}", out(reg) value, const PLACEHOLDER, options(nomem, nostack)) };
        value
    }

    /// Returns whether the value is not 0.
    #[inline(always)]
    pub(crate) fn is_set(self) -> bool {
        self.get() != 0
    }
}

macro_rules! constants {
    ($($name:ident: $constant:ident,)*) => {
        $(pub(crate) const $name: Constant<{ wire::Constant::$constant.placeholder() }> = Constant;)*
    };
}

constants! {
    HAS_SET_RETVAL: HasSetRetval,
    HAS_POST_SET_RETVAL: HasPostSetRetval,
    HAS_COARSE_TIME: HasCoarseTime,
    HAS_SOCKET_LOG: HasSocketLog,
    ORDERED_STORES: OrderedStores,
    POST_BIND_DENIES: PostBindDenies,
    TAKES_BEFORE_BIND: TakesBeforeBind,
    KERN_SOCK_BIT: KernSockBit,
    BOUND_DEV_OFFSET: BoundDevOffset,
    SOCK_NUM_OFFSET: SockNumOffset,
    IS_MPTCP_OFFSET: IsMptcpOffset,
    ULP_DATA_OFFSET: UlpDataOffset,
    SUBFLOW_CONN_OFFSET: SubflowConnOffset,
    SOCK_FLAGS_OFFSET: SockFlagsOffset,
    SOCK_TYPE: SockType,
    SOCK_COOKIE_OFFSET: SockCookieOffset,
    SOCK_NET_OFFSET: SockNetOffset,
    NET_COOKIE_OFFSET: NetCookieOffset,
    SOCK_STORAGE_OFFSET: SockStorageOffset,
    TASK_TYPE: TaskType,
    TASK_TGID_OFFSET: TaskTgidOffset,
    TASK_COMM_OFFSET: TaskCommOffset,
    TASK_CRED_OFFSET: TaskCredOffset,
    CRED_UID_OFFSET: CredUidOffset,
    TASK_CSS_SET_OFFSET: TaskCssSetOffset,
    CSS_SET_CGROUP_OFFSET: CssSetCgroupOffset,
    CGROUP_LEVEL_OFFSET: CgroupLevelOffset,
    CGROUP_ANCESTORS_OFFSET: CgroupAncestorsOffset,
    CGROUP_POINTER_TYPE: CgroupPointerType,
    CGROUP_KN_OFFSET: CgroupKnOffset,
    CGROUP_ROOT_OFFSET: CgroupRootOffset,
    ROOT_HIERARCHY_OFFSET: RootHierarchyOffset,
    KN_ID_OFFSET: KnIdOffset,
    KN_NAME_OFFSET: KnNameOffset,
    KN_PARENT_OFFSET: KnParentOffset,
}
