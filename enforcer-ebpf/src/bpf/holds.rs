//! Who holds a port.

pub(crate) mod first_binder;
pub(crate) mod table;
