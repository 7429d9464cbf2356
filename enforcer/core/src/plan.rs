//! From claims in force to the contents of the kernel's maps, and back.

pub mod boot_mark;
pub mod owner_record;
pub mod port_state;
pub mod recover;
pub mod slots;
