//! A simple model of who has which port: each pod wants one, who has it keeps it, and of those who wait the first one is
//! next. It is driven by the updates that the index gets, and knows nothing of slots, maps and records.

use super::{
    super::*,
    cluster::{Change, Object},
};

#[derive(Clone, Debug)]
struct Entry {
    number: u32,
    port: u16,
    since: i64,
    /// Its cgroup has not ended.
    lives: bool,
    /// Its cgroup is known.
    has_cgroup: bool,
    /// Its claim is known. That of a pod that waited is not, after a restart of the agent.
    wants: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pods: BTreeMap<String, Entry>,
    /// Names of the pods that have their ports.
    owners: BTreeMap<u16, String>,
    cgroups: BTreeSet<u32>,
}

impl Model {
    /// Numbers of the pods that have their ports.
    pub(super) fn owners(&self) -> BTreeMap<u16, u32> {
        self.owners.iter().map(|(port, name)| (*port, self.pods[name].number)).collect()
    }

    /// The pods that are known, and what each wants.
    pub(super) fn pods(&self) -> BTreeMap<String, (u32, u16)> {
        self.pods.iter().map(|(name, pod)| (name.clone(), (pod.number, pod.port))).collect()
    }

    fn leave(&mut self, name: &str) {
        self.owners.retain(|_, owner| owner != name);
    }

    fn settle(&mut self) {
        for port in self.pods.values().map(|pod| pod.port).collect::<BTreeSet<_>>() {
            if !self.owners.contains_key(&port) {
                let wants = |(_, pod): &(&String, &Entry)| pod.port == port && pod.lives && pod.wants;
                let next = self.pods.iter().filter(wants).min_by_key(|(name, pod)| (pod.since, (*name).clone()));
                if let Some((name, _)) = next {
                    self.owners.insert(port, name.clone());
                }
            }
        }
    }

    fn put(&mut self, object: &Object, now: i64) {
        let name = &object.pod.name;
        if self.pods.get(name).is_some_and(|pod| pod.number == object.number) {
            let pod = self.pods.get_mut(name).expect("it is there");
            pod.wants = true;
            if pod.port != object.port {
                (pod.port, pod.since) = (object.port, pod.since.max(now));
                self.leave(name);
            }
            return;
        }
        self.leave(name);
        let has_cgroup = self.cgroups.contains(&object.number);
        let (number, port, since) = (object.number, object.port, object.pod.arrival);
        self.pods.insert(name.clone(), Entry { number, port, since, lives: true, has_cgroup, wants: true });
    }

    pub(super) fn change(&mut self, change: &Change, now: i64) {
        if let Some(object) = &change.object {
            self.put(object, now);
        } else {
            self.leave(&change.name);
            self.pods.remove(&change.name);
        }
        self.settle();
    }

    pub(super) fn list(&mut self, objects: &[Object], now: i64) {
        let listed: BTreeMap<&str, u32> = objects.iter().map(|object| (&*object.pod.name, object.number)).collect();
        let gone = |(name, pod): &(&String, &Entry)| listed.get(&***name) != Some(&pod.number);
        let gone: Vec<String> = self.pods.iter().filter(gone).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.leave(&name);
            self.pods.remove(&name);
        }
        for object in objects {
            self.put(object, now);
        }
        self.settle();
    }

    pub(super) fn cgroup_made(&mut self, number: u32) {
        self.cgroups.insert(number);
        if let Some(pod) = self.pods.values_mut().find(|pod| pod.number == number) {
            (pod.has_cgroup, pod.lives) = (true, true);
        }
        self.settle();
    }

    pub(super) fn cgroup_removed(&mut self, number: u32) {
        self.cgroups.remove(&number);
        if let Some((name, pod)) = self.pods.iter_mut().find(|(_, pod)| pod.number == number && pod.has_cgroup) {
            (pod.has_cgroup, pod.lives) = (false, false);
            let name = name.clone();
            self.leave(&name);
        }
        self.settle();
    }

    /// Another agent comes, and reads the maps and the cgroups.
    pub(super) fn restart(&mut self, cgroups: &BTreeSet<u32>) {
        let owners: BTreeSet<String> = self.owners.values().cloned().collect();
        for (name, pod) in &mut self.pods {
            pod.wants = owners.contains(name);
        }
        let ended: Vec<u32> = self.pods.values().filter(|pod| pod.has_cgroup).map(|pod| pod.number).collect();
        for number in ended.into_iter().filter(|number| !cgroups.contains(number)) {
            self.cgroup_removed(number);
        }
        self.cgroups.clear();
        for &number in cgroups {
            self.cgroup_made(number);
        }
    }
}
