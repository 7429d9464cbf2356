//! Names of owners that were deleted a short time ago.

use std::collections::{HashMap, VecDeque};

use crate::model::{name::Name, owner::OwnerId};

/// Most deleted owners whose names are kept, so that an event that was on its way still finds it.
pub(super) const MAX_RECENT_NAMES: usize = 4096;

/// Names of deleted owners.
#[derive(Debug, Default)]
pub(super) struct RecentNames {
    names: HashMap<OwnerId, Name>,
    order: VecDeque<OwnerId>,
}

impl RecentNames {
    pub(super) fn remember(&mut self, id: OwnerId, name: Name) {
        if self.order.len() >= MAX_RECENT_NAMES
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
        self.order.push_back(id);
        self.names.insert(id, name);
    }

    pub(super) fn name(&self, id: OwnerId) -> Option<&Name> {
        self.names.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_bounded() {
        let mut past = RecentNames::default();
        let id = |number| OwnerId::new(number).unwrap();
        for number in 1..=u32::try_from(MAX_RECENT_NAMES).unwrap() + 1 {
            past.remember(id(number), Name::node());
        }
        assert_eq!(past.name(id(1)), None);
        assert!(past.name(id(2)).is_some());
        assert_eq!(past.names.len(), MAX_RECENT_NAMES);
    }
}
