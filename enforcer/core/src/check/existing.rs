//! Objects that are there already, as context for new ones: `enforcer check --against`.

use std::{collections::HashSet, sync::Arc};

use super::{
    ManifestSet,
    object::{DocumentContents, ManifestObject, ManifestService, read},
};
use crate::{
    pods::claims::ClaimLimits,
    yaml::documents::{Document, documents, with_large_stack},
};

impl ManifestSet {
    /// Returns the objects that are new.
    pub fn new_objects(&self) -> impl Iterator<Item = &ManifestObject> {
        self.objects.iter().filter(|object| !object.existing)
    }

    /// Counts the Services that are new.
    #[must_use]
    pub fn new_services(&self) -> usize {
        self.services.iter().filter(|service| !service.existing).count()
    }

    /// Adds objects that are there already. Those that a new object of the same kind, namespace and name replaces are left
    /// out. Only what the new objects bring is reported then.
    pub fn add_existing(&mut self, existing: Self) {
        let Self { objects, services, port_limits, unreadable, more_unreadable, .. } = existing;
        let replaced: HashSet<_> =
            self.objects.iter().filter(|object| !object.generated).map(ManifestObject::key).collect();
        let mut kept: Vec<_> =
            objects.into_iter().filter(|object| object.generated || !replaced.contains(&object.key())).collect();
        drop(replaced);
        for object in &mut kept {
            object.existing = true;
        }
        // In front of the new ones: of two, the later one has the finding.
        kept.append(&mut self.objects);
        self.objects = kept;
        let key = |service: &ManifestService| (service.namespace.clone(), service.name.clone());
        let replaced: HashSet<_> = self.services.iter().filter(|service| !service.generated).map(key).collect();
        let is_kept = |service: &ManifestService| service.generated || !replaced.contains(&key(service));
        let mut kept: Vec<_> = services.into_iter().filter(is_kept).collect();
        for service in &mut kept {
            service.existing = true;
        }
        kept.append(&mut self.services);
        self.services = kept;
        for (namespace, limit) in port_limits {
            self.port_limits.entry(namespace).or_insert(limit);
        }
        // What cannot be read there could be in the way.
        self.unreadable.extend(unreadable);
        self.more_unreadable += more_unreadable;
    }
}

/// Reads objects of a cluster, each as JSON. `place` stands for the file that they have not.
#[must_use]
pub fn read_objects(
    objects: impl IntoIterator<Item = String> + Send,
    place: &str,
    limits: &ClaimLimits,
) -> ManifestSet {
    let place: Arc<str> = place.into();
    with_large_stack(|| {
        let mut manifests = ManifestSet { files: vec![place.clone()], ..ManifestSet::default() };
        for text in objects {
            for Document { root, .. } in documents(&text).map_while(Result::ok) {
                // What an API server has accepted has no flaws that are worth a finding.
                let DocumentContents { objects, services, port_limits, .. } = read(&root, &place, 0, limits);
                manifests.port_limits.extend(port_limits);
                manifests.objects.extend(objects.into_iter().map(|mut object| {
                    object.forget_lines();
                    object
                }));
                manifests.services.extend(services.into_iter().map(|mut service| {
                    service.forget_lines();
                    service
                }));
            }
        }
        manifests.apply_port_limits(limits);
        manifests
    })
}
