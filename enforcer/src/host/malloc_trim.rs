//! The agent's own memory.

/// Gives memory that is free back to the kernel. The C library keeps it, however much it is: of the start, when the
/// kernel's types and the programs are read, and of a first list of many pods it would keep many times what the agent
/// needs after.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition; memory that is in use stays where it is.
    unsafe {
        libc::malloc_trim(0);
    }
}
