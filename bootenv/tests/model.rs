//! Agent and bootloader as one system, explored exhaustively: the power may go after every single step, and up to two
//! faults happen at any time. Every decision is made by the functions that run on the device.

#[path = "model/agent.rs"]
mod agent;
#[path = "model/data.rs"]
mod data;
#[path = "model/device.rs"]
mod device;
#[path = "model/mutations.rs"]
mod mutations;
#[path = "model/rules.rs"]
mod rules;
#[path = "model/world.rs"]
mod world;

use device::{Action, Device};
use mutations::{MUTATIONS, Mutation, UBOOT_MUTATIONS};
use stateright::{Checker, HasDiscoveries, Model};
use world::Kind::{self, Grub, UBoot};

/// Explores a device until a rule is broken or nothing is left, and returns how many states it saw and which rule broke,
/// with the way there.
fn explore(kind: Kind, faults: u8, mutation: Option<Mutation>) -> (usize, Vec<(&'static str, String)>) {
    let checker = Device { kind, faults, mutation }
        .checker()
        .threads(std::thread::available_parallelism().map_or(1, usize::from))
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut broken = Vec::new();
    for (rule, path) in checker.discoveries() {
        let way = path.into_vec().into_iter().map(|(world, action)| match action {
            Some(Action::Step) => format!("  {:?}\n", world.todo[0]),
            Some(action) => format!("  {action:?}\n"),
            None => format!("  = {world}\n"),
        });
        broken.push((rule, way.collect()));
    }
    (checker.unique_state_count(), broken)
}

fn all_rules_hold(kind: Kind, faults: u8) {
    let (states, broken) = explore(kind, faults, None);
    println!("{kind:?}, faults: {faults}, states: {states}");
    assert!(
        broken.is_empty(),
        "{}",
        broken.into_iter().map(|(rule, way)| format!("{rule}:\n{way}")).collect::<String>()
    );
}

#[test]
fn all_rules_hold_without_faults() {
    all_rules_hold(Grub, 0);
}

#[test]
fn all_rules_hold_with_any_fault() {
    all_rules_hold(Grub, 1);
}

#[test]
#[ignore = "explores some twenty million states, minutes on two cores"]
fn all_rules_hold_with_any_two_faults() {
    all_rules_hold(Grub, 2);
}

#[test]
fn all_rules_hold_over_two_copies_without_faults() {
    all_rules_hold(UBoot, 0);
}

#[test]
fn all_rules_hold_over_two_copies_with_any_fault() {
    all_rules_hold(UBoot, 1);
}

#[test]
#[ignore = "explores some twenty million states, minutes on two cores"]
fn all_rules_hold_over_two_copies_with_any_two_faults() {
    all_rules_hold(UBoot, 2);
}

#[test]
fn every_mistake_is_noticed() {
    let mut missed = Vec::new();
    let of_grub = MUTATIONS.iter().map(|mistake| (Grub, mistake));
    let of_uboot = UBOOT_MUTATIONS.iter().map(|mistake| (UBoot, mistake));
    for (kind, (mutation, faults)) in of_grub.chain(of_uboot) {
        let (states, broken) = explore(kind, *faults, Some(*mutation));
        match broken.as_slice() {
            [] => missed.push((kind, mutation)),
            rules => {
                let names: Vec<&str> = rules.iter().map(|(rule, _)| *rule).collect();
                println!("{kind:?}: {mutation:?}, {faults} faults, {states} states: {}", names.join("; "));
            }
        }
    }
    assert!(missed.is_empty(), "the model does not notice {missed:?}");
}

/// Explores checkpoints until a rule is broken or nothing is left.
fn explore_data(limits: data::Limits) -> (usize, Vec<(&'static str, String)>) {
    let checker = data::Device(limits)
        .checker()
        .threads(std::thread::available_parallelism().map_or(1, usize::from))
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let shown = |(world, action): (data::World, Option<data::Action>)| match action {
        Some(data::Action::Next) => format!("  {:?}\n", world.todo.first()),
        Some(action) => format!("  {action:?}\n"),
        None => format!("  = {world:?}\n"),
    };
    let broken = checker.discoveries().into_iter();
    let broken = broken.map(|(rule, path)| (rule, path.into_vec().into_iter().map(shown).collect())).collect();
    (checker.unique_state_count(), broken)
}

fn data_rules_hold(limits: data::Limits) {
    let (states, broken) = explore_data(limits);
    println!("{limits:?}, states: {states}");
    let broken = broken.into_iter().map(|(rule, way)| format!("{rule}:\n{way}")).collect::<String>();
    assert!(broken.is_empty(), "{broken}");
}

const DATA: data::Limits = data::Limits { faults: 0, trials: 3, old: 0, newer: 0, mutation: None };

#[test]
fn data_go_back_with_the_slot_without_faults() {
    data_rules_hold(DATA);
}

#[test]
fn data_go_back_with_the_slot_with_any_fault() {
    data_rules_hold(data::Limits { faults: 1, trials: 2, ..DATA });
}

#[test]
#[ignore = "explores more than a million states"]
fn data_go_back_with_the_slot_with_any_two_faults() {
    data_rules_hold(data::Limits { faults: 2, trials: 1, ..DATA });
}

/// The release before the first with checkpoints, and a release before it that comes back.
#[test]
fn data_rules_hold_beside_agents_that_know_no_checkpoints() {
    for old in [0b001, 0b010, 0b100] {
        data_rules_hold(data::Limits { old, ..DATA });
    }
    data_rules_hold(data::Limits { faults: 1, trials: 2, old: 0b001, ..DATA });
}

/// Agents that write and read a later layout, before and after others.
#[test]
fn no_boot_is_held_by_a_checkpoint_of_a_later_layout() {
    for newer in [0b0010, 0b0101, 0b0110] {
        data_rules_hold(data::Limits { newer, ..DATA });
    }
    data_rules_hold(data::Limits { faults: 1, trials: 2, newer: 0b010, ..DATA });
    let mutation = Some(data::Mutation::WritesItsOwnLayout);
    let (_, broken) = explore_data(data::Limits { newer: 0b010, mutation, ..DATA });
    assert!(!broken.is_empty(), "the model does not notice a trial that writes its own layout");
}

#[test]
fn every_mistake_with_data_is_noticed() {
    let mut missed = Vec::new();
    for (mutation, faults, old) in data::MUTATIONS {
        let trials = if *faults == 0 { 3 } else { 2 };
        let (states, broken) =
            explore_data(data::Limits { faults: *faults, trials, old: *old, mutation: Some(*mutation), ..DATA });
        let names: Vec<&str> = broken.iter().map(|(rule, _)| *rule).collect();
        println!("{mutation:?}, {faults} faults, {states} states: {}", names.join("; "));
        if names.is_empty() {
            missed.push(mutation);
        }
    }
    assert!(missed.is_empty(), "the model does not notice {missed:?}");
}
