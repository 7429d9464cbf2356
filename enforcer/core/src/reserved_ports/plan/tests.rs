use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

fn set(text: &str) -> PortSet {
    PortSet::parse(text).unwrap()
}

/// A machine: the kernel's list and the disk, and what others wanted to be in the list.
#[derive(Clone, Debug, Default)]
struct Machine {
    list: PortSet,
    memory: RememberedPorts,
    others: PortSet,
}

impl Machine {
    fn with_others(others: PortSet) -> Self {
        Self { list: others.clone(), memory: RememberedPorts::default(), others }
    }

    fn plan(&self, wanted: &[u16], ephemeral: &RangeInclusive<u16>) -> Plan {
        plan(&self.list, &self.memory, wanted, ephemeral)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Remember(memory) => self.memory = memory.clone(),
            Step::Add(text) => self.list = self.list.or(&Self::take(text)),
            Step::Replace(text) => self.list = Self::take(text),
        }
        // Whatever moment a crash chooses, what is ours is known to be ours.
        let ours = self.list.without(&self.others);
        assert!(ours.without(&self.memory.ours).is_empty(), "forgotten: {:?}", ours.without(&self.memory.ours));
    }

    fn take(text: &str) -> PortSet {
        assert!(text.len() <= MAX_WRITE_BYTES);
        set(text)
    }

    fn sync(&mut self, wanted: &[u16], ephemeral: &RangeInclusive<u16>) -> Plan {
        let plan = self.plan(wanted, ephemeral);
        for step in &plan.steps {
            self.step(step);
        }
        assert_eq!(self.list, plan.after);
        plan
    }

    /// Somebody else reserves a port.
    fn others_add(&mut self, port: u16) {
        self.others.insert(port);
        self.list.insert(port);
    }

    /// Somebody else lets go of one of theirs.
    fn others_take(&mut self, port: u16) {
        if self.others.contains(port) {
            let gone = [port].into_iter().collect();
            self.others = self.others.without(&gone);
            self.list = self.list.without(&gone);
        }
    }
}

#[test]
fn lists_are_read_and_written_as_the_kernel_has_them() {
    for (text, shown) in [
        ("\n", ""),
        ("", ""),
        ("0\n", "0"),
        ("8080,9000-9002\n", "8080,9000-9002"),
        ("20,10,15-18,16", "10,15-18,20"),
        ("65535,1-2,3", "1-3,65535"),
        ("0-65535", "0-65535"),
    ] {
        assert_eq!(set(text).to_string(), shown);
    }
    for bad in ["x", "1,x", "65536", "5-1", "1-", "-1", "+1", "1 2", "1-2-3"] {
        assert!(PortSet::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(PortSet::default().texts(MAX_WRITE_BYTES), ["\n"]);
}

#[test]
fn the_steps_in_their_order() {
    let mut machine = Machine::with_others(set("100,50000"));
    let plan = machine.sync(&[80, 40000, 50000], &EPHEMERAL);
    let memory = RememberedPorts { ours: set("80,40000"), others: None };
    assert_eq!(plan.steps, [Step::Remember(memory), Step::Add("80,40000".to_owned())]);
    assert_eq!(machine.plan(&[80, 40000, 50000], &EPHEMERAL).steps, []);

    let plan = machine.sync(&[80], &EPHEMERAL);
    let forget = Step::Remember(RememberedPorts { ours: set("80"), others: None });
    assert_eq!(plan.steps, [Step::Replace("80,100,50000".to_owned()), forget]);
    machine.sync(&[], &EPHEMERAL);
    assert_eq!(machine.list, set("100,50000"));
}

#[test]
fn a_list_longer_than_a_write_is_replaced_under_a_note_of_what_others_have() {
    let others: PortSet = (1..6000).step_by(2).collect();
    let mut machine = Machine::with_others(others.clone());
    machine.sync(&[40000], &EPHEMERAL);
    let plan = machine.plan(&[], &EPHEMERAL);
    let note = RememberedPorts { ours: set("40000"), others: Some(others.clone()) };
    assert_eq!(plan.steps[0], Step::Remember(note));
    assert!(matches!(plan.steps[1], Step::Replace(_)));
    // A crash after the first write.
    machine.step(&plan.steps[0]);
    machine.step(&plan.steps[1]);
    assert!(machine.list.len() < 1000);
    machine.sync(&[], &EPHEMERAL);
    assert_eq!((machine.list, machine.memory), (others, RememberedPorts::default()));
}

#[test]
fn half_of_the_free_ephemeral_ports_stay_free() {
    let mut machine = Machine::with_others(set("50000-50009"));
    let wanted: Vec<u16> = (1..=u16::MAX).collect();
    let ephemeral = 50000..=50109;
    let plan = machine.sync(&wanted, &ephemeral);
    assert_eq!(plan.left_out, set("50060-50109"));
    assert!(machine.list.contains(49999) && machine.list.contains(50110), "others cost no outgoing connection");
    assert_eq!(machine.plan(&wanted, &ephemeral).steps, []);
    // What is ours comes before what is merely preferred.
    let mut wanted: Vec<u16> = (50100..=50109).chain(50010..=50059).collect();
    let plan = machine.sync(&wanted, &ephemeral);
    assert_eq!(plan.left_out, set("50100-50109"));
    wanted.truncate(20);
    let plan = machine.sync(&wanted, &ephemeral);
    assert_eq!((plan.left_out, machine.list), (PortSet::default(), set("50000-50019,50100-50109")));
}

#[test]
fn a_port_that_vanished_is_ours_no_more() {
    let mut machine = Machine::default();
    machine.sync(&[40000, 40001], &EPHEMERAL);
    // Somebody writes a list of their own, in which one of ours does not occur, and later reserves it for themselves.
    machine.list = set("40001");
    machine.sync(&[], &EPHEMERAL);
    machine.list.insert(40000);
    machine.sync(&[], &EPHEMERAL);
    assert_eq!(machine.list, set("40000"));
}

/// Few enough ports that they meet, and enough that a list takes several writes.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![40000u16..40020, any::<u16>()]
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![
        vec(port(), 0..20),
        vec(any::<u16>(), 500..2500),
        Just((2..4000).step_by(2).collect::<Vec<u16>>()),
        Just((39000..41000).collect::<Vec<u16>>())
    ]
}

#[derive(Clone, Debug)]
enum Happening {
    Sync(Vec<u16>),
    /// Some steps of a synchronisation, then a crash.
    Crash(Vec<u16>, Index),
    OthersAdd(u16),
    OthersTake(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => ports().prop_map(Happening::Sync),
        3 => (ports(), any::<Index>()).prop_map(|(wanted, at)| Happening::Crash(wanted, at)),
        1 => port().prop_map(Happening::OthersAdd),
        1 => port().prop_map(Happening::OthersTake),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(ports in ports(), most in 11usize..5000) {
        let wanted: BTreeSet<u16> = ports.iter().copied().collect();
        let set: PortSet = ports.into_iter().collect();
        prop_assert!(set.iter().eq(wanted.iter().copied()));
        prop_assert_eq!(set.len() as usize, wanted.len());
        prop_assert_eq!(&PortSet::parse(&set.to_string()).unwrap(), &set);
        let mut read = PortSet::default();
        for text in set.texts(most) {
            prop_assert!(text.len() <= most);
            read = read.or(&PortSet::parse(&text).unwrap());
        }
        prop_assert_eq!(read, set);
    }

    #[test]
    fn a_plan_keeps_to_the_rules(
        others in ports(), before in ports(), wanted in ports(), first in 30000u16..41000, width in 0u16..20000
    ) {
        let ephemeral = first..=first.saturating_add(width);
        let mut machine = Machine::with_others(others.into_iter().collect());
        machine.sync(&before, &ephemeral);
        let plan = machine.sync(&wanted, &ephemeral);
        let wanted_set: PortSet = wanted.iter().copied().filter(|port| *port != 0).collect();
        // Nothing of others is lost, and nothing is ours that is theirs or that nobody wants.
        prop_assert!(machine.others.without(&machine.list).is_empty());
        prop_assert_eq!(machine.list.without(&machine.others), plan.ours.clone());
        prop_assert!(plan.ours.without(&wanted_set).is_empty());
        // Whatever is wanted is reserved or told; what is told is ephemeral.
        prop_assert_eq!(wanted_set.without(&machine.list), plan.left_out.clone());
        prop_assert!(plan.left_out.iter().all(|port| ephemeral.contains(&port)));
        // Half of what others left free stays free, and nothing is left out while there is room.
        let free = ephemeral.clone().filter(|port| !machine.others.contains(*port)).count();
        let ours = plan.ours.iter().filter(|port| ephemeral.contains(port)).count();
        prop_assert!(ours <= free / 2);
        prop_assert!(plan.left_out.is_empty() || ours == free / 2);
        // It is settled.
        prop_assert_eq!(machine.plan(&wanted, &ephemeral).steps, []);
    }

    #[test]
    fn no_crash_and_no_edit_costs_others_anything(
        others in ports(), happenings in vec(happening(), 1..12)
    ) {
        let mut machine = Machine::with_others(others.into_iter().collect());
        for happening in happenings {
            match happening {
                Happening::Sync(wanted) => {
                    machine.sync(&wanted, &EPHEMERAL);
                    prop_assert!(machine.others.without(&machine.list).is_empty());
                }
                Happening::Crash(wanted, at) => {
                    let plan = machine.plan(&wanted, &EPHEMERAL);
                    let done = at.index(plan.steps.len() + 1);
                    for step in &plan.steps[..done] {
                        machine.step(step);
                    }
                }
                // Nobody can tell whose a port is that two wanted; and while a list is half written, an edit of it is
                // not told from what is missing.
                Happening::OthersAdd(port) if machine.memory.ours.contains(port) => {}
                Happening::OthersTake(_) if machine.memory.others.is_some() => {}
                Happening::OthersAdd(port) => machine.others_add(port),
                Happening::OthersTake(port) => machine.others_take(port),
            }
        }
        machine.sync(&[], &EPHEMERAL);
        prop_assert_eq!(machine.list, machine.others);
        prop_assert_eq!(machine.memory, RememberedPorts::default());
    }
}
