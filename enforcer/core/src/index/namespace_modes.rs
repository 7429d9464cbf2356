//! Modes per namespace, from labels.

use std::collections::HashMap;

use crate::{
    index::{Index, Notice},
    model::{
        mode::{Mode, NamespaceMode},
        owner::OwnerKind,
        text::{escape, escape_bounded},
    },
};

impl Index {
    /// Sets, changes or removes (`None`) the mode label of a namespace.
    pub fn set_mode_label(&mut self, namespace: &str, label: Option<&str>) {
        let mode = label.and_then(Mode::from_word);
        if let (Some(value), None) = (label, mode) {
            let (namespace, value) = (escape(namespace), escape_bounded(value, 64));
            self.output.notices.push(Notice::ModeInvalid { namespace, value });
        }
        let before = match mode {
            Some(mode) => self.modes.insert(namespace.to_owned(), mode),
            None => self.modes.remove(namespace),
        };
        if before == mode {
            return;
        }
        let effective = self.mode_of(namespace);
        let mut turned = Vec::new();
        for owner in self.owners.values_mut().filter(|owner| owner.kind == OwnerKind::Pod) {
            if owner.name.namespace == namespace && owner.mode != effective {
                owner.mode = effective;
                turned.push(owner.id);
            }
        }
        for id in turned {
            self.write_owner(id);
        }
    }

    /// Replaces all namespaces with a mode label by these.
    pub fn reset_mode_labels(&mut self, labels: &HashMap<String, String>) {
        let gone: Vec<String> = self.modes.keys().filter(|name| !labels.contains_key(*name)).cloned().collect();
        for namespace in gone {
            self.set_mode_label(&namespace, None);
        }
        for (namespace, label) in labels {
            self.set_mode_label(namespace, Some(label));
        }
    }

    /// Returns the mode of a namespace where it overrides the node's.
    pub(super) fn mode_of(&self, namespace: &str) -> Option<Mode> {
        let mode = self.modes.get(namespace).copied();
        match self.settings.namespace_mode {
            NamespaceMode::Any => mode,
            NamespaceMode::Stricter => mode.filter(|mode| *mode == Mode::Enforce),
            NamespaceMode::Off => None,
        }
    }
}
