/*
 * The decision on an IPv4 bind as the product's program takes it, in C: the same maps in shape and the same reads, for
 * a port that nobody claims, for its owner, and for a denial that is counted and not reported. Everything else that
 * the product knows (addresses, several owners, records, adoption) is left out.
 *
 * Constants that belong to the layouts of the product's maps are defined on the compiler's command line.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
#define VOLATILE(word) (*(volatile u64 *)&(word))

/* include/uapi/linux/bpf.h: map types, flags, helpers. */
enum { HASH = 1, ARRAY = 2, PERCPU_ARRAY = 6, RINGBUF = 27, MMAPABLE = 1024, AVAIL_DATA = 0 };
static void *(*lookup)(void *map, const void *key) = (void *)1;
static u64 (*netns_cookie)(void *context) = (void *)122;
static u64 (*ancestor_cgroup_id)(int level) = (void *)123;
static u64 (*ringbuf_query)(void *ring, u64 flags) = (void *)134;
static u64 (*ktime_coarse_ns)(void) = (void *)160;
static int (*get_retval)(void) = (void *)186;
static int (*set_retval)(int retval) = (void *)187;

/* struct bpf_sock_addr, as far as it is read. */
struct sock_addr {
    u32 user_family;
    u32 user_ip4;
    u32 user_ip6[4];
    u32 user_port;
    u32 family;
    u32 type;
    u32 protocol;
};

struct config {
    u64 layout, policy, root_cgroup, root_level, pod_levels, netns_cookie, lease_deadline, reserved;
};
struct owner {
    u64 cgroup, identity, kinship, level;
};
struct port_holder {
    u64 holder, asked;
};

#define MAP(name, kind, key_type, value_type, entries, flags) \
    struct {                                                  \
        int (*type)[kind];                                    \
        key_type *key;                                        \
        value_type *value;                                    \
        int (*max_entries)[entries];                          \
        int (*map_flags)[flags];                              \
    } name SECTION(".maps")

MAP(CONFIG, ARRAY, u32, struct config, 1, MMAPABLE);
MAP(PORTS, ARRAY, u32, u64, PORT_COUNT, MMAPABLE);
MAP(PORT_HOLDERS, ARRAY, u32, struct port_holder, ENFORCED_PORT_COUNT, MMAPABLE);
MAP(OWNERS, ARRAY, u32, struct owner, MAX_OWNERS, MMAPABLE);
MAP(MODE, ARRAY, u32, u64, 1, MMAPABLE);
MAP(POD_CGROUPS, HASH, u64, u64, MAX_POD_CGROUPS, 0);
MAP(COUNTERS, PERCPU_ARRAY, u32, u64, COUNTER_COUNT, 0);
struct {
    int (*type)[RINGBUF];
    int (*max_entries)[RING_BYTES];
} VERDICT_RING SECTION(".maps");

/* The bits of a policy's word, and of a port's. */
#define DENIES_UNDECLARED 2
#define REPORTS_ATTEMPTS 8
#define ENFORCES 1
#define SLOT 0x7fff
#define WHOLE 0x8000

INLINE void count(u32 index) {
    u64 *counter = lookup(&COUNTERS, &index);
    if (counter)
        __sync_fetch_and_add(counter, 1);
}

INLINE void set_asked(struct port_holder *holder, u64 value) {
    if (VOLATILE(holder->asked) != value)
        VOLATILE(holder->asked) = value;
}

INLINE int deny(u64 policy) {
    if (get_retval() == 0)
        set_retval(-(int)((policy >> 16) & 4095));
    return 0;
}

SECTION("cgroup/bind4") int twin_bind4(struct sock_addr *context) {
    u32 number = context->protocol, protocol, zero = 0;
    if (number == 6 || number == 262)
        protocol = 0;
    else if (number == 17)
        protocol = 1;
    else
        return 1;

    struct config *config = lookup(&CONFIG, &zero);
    if (!config || netns_cookie(context) != VOLATILE(config->netns_cookie))
        return 1;
    u16 port = __builtin_bswap16((u16)context->user_port);
    u32 index = protocol << 16 | port;
    u64 *word = lookup(&PORTS, &index);
    struct port_holder *holder = lookup(&PORT_HOLDERS, &index);
    if (!word || !holder)
        return 1;
    u64 claims = VOLATILE(*word), policy = VOLATILE(config->policy), per_protocol = protocol * COUNTERS_PER_PROTOCOL;
    int may_bind = port == 0 || (VOLATILE(holder->holder) == 0 && !(policy & DENIES_UNDECLARED));
    if (claims == 0 && may_bind && !(policy & REPORTS_ATTEMPTS)) {
        count(per_protocol + ALLOW_UNCLAIMED);
        if (port != 0)
            set_asked(holder, 1 + ALLOW_UNCLAIMED);
        return 1;
    }

    /* One owner for all addresses of both families. */
    if (claims >> 32 != (claims & 0xffffffff) || (claims & (WHOLE | SLOT << 16)) != WHOLE)
        return 1;
    u32 slot = claims & SLOT;
    struct owner *owner = lookup(&OWNERS, &slot);
    if (!owner)
        return 1;
    u64 level = VOLATILE(owner->level), owner_cgroup = VOLATILE(owner->cgroup);
    u64 root_level = VOLATILE(config->root_level);
    u64 ancestor = level ? ancestor_cgroup_id(root_level + level) : 0;
    u64 held_by = VOLATILE(holder->holder);
    int is_owner = ancestor != 0 && ancestor == owner_cgroup;
    if (is_owner && (held_by == 0 || held_by == owner_cgroup) && !(policy & REPORTS_ATTEMPTS)) {
        count(per_protocol + ALLOW_OWNER);
        set_asked(holder, 1 + ALLOW_OWNER);
        return 1;
    }
    if (is_owner)
        return 1;

    /* Who calls: the pod of that ancestor. */
    u64 *identity = ancestor ? lookup(&POD_CGROUPS, &ancestor) : 0;
    if (!identity)
        return 1;
    u64 found = VOLATILE(*identity);
    if (found >> 32 != (ancestor & 0xffffffff))
        return 1;
    u32 own_slot = found & SLOT;
    struct owner *caller = lookup(&OWNERS, &own_slot);
    if (!caller)
        return 1;
    u64 own = VOLATILE(caller->identity), other = VOLATILE(owner->identity);
    u64 own_kin = VOLATILE(caller->kinship), other_kin = VOLATILE(owner->kinship);
    if ((u32)own == (u32)other)
        return 1;
    /* Kin may share: the same share group, or the same workload. */
    if (((u32)own_kin && (u32)own_kin == (u32)other_kin) || (own_kin >> 32 && own_kin >> 32 == other_kin >> 32))
        return 1;
    /* The mode: the owner's, the node's own, and the lease. */
    u64 *mode = lookup(&MODE, &zero);
    u64 deadline = VOLATILE(config->lease_deadline);
    if (!(policy & ENFORCES) || (mode && VOLATILE(*mode)) || (deadline && ktime_coarse_ns() > deadline))
        return 1;
    int is_lost = ringbuf_query(&VERDICT_RING, AVAIL_DATA) > RING_BYTES - 1 - 8 - RECORD_BYTES;
    count(per_protocol + DENY_CLAIMED + (is_lost ? UNREPORTED : 0));
    return deny(policy);
}

char LICENSE[] SECTION("license") = "GPL";
