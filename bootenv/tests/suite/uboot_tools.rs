//! U-Boot's environment beside the tools of U-Boot and of libubootenv: each reads what the others write, in every
//! geometry, and so they do with what is left of a store that was cut off anywhere.

use crate::common;

use std::fs;
use std::process::Command;

use bootenv::protocol::BootState;
use bootenv::uboot::{Environment, Format, newest};
use bootenv::{SlotId, TrialId};
use common::uboot::{Bench, Geometry, SECTOR, Tools, Variables, environment, ours, value, variables};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

fn cases<T: std::fmt::Debug>(count: usize, of: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| of.new_tree(&mut runner).expect("a case").current()).collect()
}

/// Each geometry with a case of its own.
fn geometries<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> Vec<(Geometry, T)> {
    let all = Geometry::all();
    let cases = cases(all.len(), of);
    all.into_iter().zip(cases).collect()
}

#[test]
fn all_tools_read_what_this_crate_writes_in_every_geometry() {
    for (geometry, variables) in geometries(variables()) {
        let bench = Bench::new(&geometry);
        bench.seed(&variables, geometry.format());
        assert_eq!(bench.views().map(Result::ok), [(); 3].map(|()| Some(variables.clone())), "{geometry:?}");
    }
}

/// The writer of a variable.
#[derive(Clone, Copy, Debug)]
enum Who {
    Ours,
    Theirs(Tools),
}

#[test]
fn this_crate_and_the_fw_setenv_of_both_projects_take_turns() {
    let who = prop_oneof![Just(Who::Ours), Just(Who::Theirs(Tools::Libubootenv)), Just(Who::Theirs(Tools::UBoot))];
    let edit = (who, "[a-f]{1,2}", prop_oneof![3 => value().prop_map(Some), 1 => Just(None)]);
    for (geometry, (mut expected, edits)) in geometries((variables(), proptest::collection::vec(edit, 1..6))) {
        let bench = Bench::new(&geometry);
        bench.seed(&expected, geometry.format());
        for (who, name, value) in &edits {
            match who {
                Who::Ours => {
                    let value = value.clone().unwrap_or_default();
                    let loaded = bench.store().load().expect("an environment");
                    let next = loaded.environment.with(&[(name.as_str(), value)]);
                    bench.store().store(&loaded, &next).expect("stored");
                }
                Who::Theirs(tools) => {
                    let args: Vec<&str> = [Some(name.as_str()), value.as_deref()].into_iter().flatten().collect();
                    let output = bench.tool(*tools, "fw_setenv", &args);
                    assert!(output.status.success(), "{tools:?}: fw_setenv {args:?}: {output:?}");
                }
            }
            match value {
                Some(value) => drop(expected.insert(name.clone(), value.clone())),
                None => drop(expected.remove(name)),
            }
            let views = bench.views().map(Result::ok);
            assert_eq!(views, [(); 3].map(|()| Some(expected.clone())), "{geometry:?} {edits:?}");
        }
    }
}

#[test]
fn this_crate_reads_what_mkenvimage_makes() {
    for (variables, redundant, padding) in cases(60, (variables(), any::<bool>(), any::<bool>())) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [text, image] = ["text", "image"].map(|name| folder.path().join(name));
        let lines: String = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(&text, &lines).expect("a file");
        let mut command = Command::new("mkenvimage");
        command.args(["-s", "0x1000", "-p", if padding { "0x00" } else { "0xff" }]);
        command.args(if redundant { &["-r"][..] } else { &[] }).arg("-o").arg(&image).arg(&text);
        let output = command.output().unwrap_or_else(|e| panic!("{e}: install the Debian package u-boot-tools"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = fs::read(&image).expect("the image");
        let format = if redundant { Format::Redundant } else { Format::Single };
        let (read, flags) = Environment::parse(&bytes, format).expect("an environment");
        for (name, value) in &variables {
            // mkenvimage takes blanks at the end of a line as they are, and so do we.
            assert_eq!(read.get(name).as_deref(), Some(value.as_str()), "{lines}");
        }
        assert_eq!(read.variables().len(), variables.len(), "{lines}");
        if !padding {
            continue;
        }
        assert_eq!(read.encode(bytes.len(), format, flags).expect("they fit"), bytes, "byte for byte");
    }
}

#[test]
fn all_count_the_same_copy_whatever_the_flags() {
    let bench = Bench::new(&Geometry::pair());
    let places = bench.places();
    let copies = ["first", "second"].map(|name| environment(&[("copy".to_owned(), name.to_owned())].into()));
    let each = [0, 1, 2, 7, 127, 128, 253, 254, 255];
    for (first, second) in each.into_iter().flat_map(|first| each.map(|second| (first, second))) {
        for (place, (copy, flags)) in places.iter().zip(copies.iter().zip([first, second])) {
            bench.put(place, &copy.encode(0x200, Format::Redundant, flags).expect("it fits"));
        }
        let loaded = bench.store().load().expect("an environment");
        let views = bench.views().map(Result::ok);
        assert_eq!(views, [(); 3].map(|()| Some(ours(&loaded))), "flags {first} and {second}");
        let counted = newest([Some(first), Some(second)]);
        assert_eq!(loaded.environment, copies[counted.expect("one counts")]);
    }
}

/// The remains of a write: which of its sectors arrived. All of them in order and against it, and some at random.
fn tears(sectors: usize) -> Vec<Vec<bool>> {
    let prefixes =
        (0..=sectors).flat_map(|n| [true, false].map(|first| (0..sectors).map(|s| (s < n) == first).collect()));
    prefixes.chain(cases(8, proptest::collection::vec(any::<bool>(), sectors))).collect()
}

/// The old state, the new one, or none at all, by each view of what a torn write has left.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Old,
    New,
    Nothing,
}

/// Tears the bytes of one copy in every way, and has all look at what is left: gives what they see.
fn tear(bench: &Bench, copy: usize, [before, after]: [&[u8]; 2], [old, new]: [&Variables; 2]) -> Vec<(bool, Seen)> {
    let mut seen = vec![];
    for arrived in tears(before.len().div_ceil(SECTOR)) {
        let mut torn = before.to_vec();
        for (sector, bytes) in after.chunks(SECTOR).enumerate().filter(|(sector, _)| arrived[*sector]) {
            torn[sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
        }
        bench.put(&bench.places()[copy], &torn);
        let views = bench.views().map(|view| match view {
            Ok(view) if view == *old => Seen::Old,
            Ok(view) if view == *new => Seen::New,
            Ok(other) => panic!("a third state: {other:?}"),
            Err(_) => Seen::Nothing,
        });
        let [ours, libubootenv, u_boot] = views;
        assert!(ours == libubootenv && ours == u_boot, "{ours:?}, {libubootenv:?}, {u_boot:?}: {arrived:?}");
        seen.push((torn == after, ours));
    }
    seen
}

#[test]
fn whatever_is_left_of_a_torn_store_is_the_old_state_or_the_new_one_for_all_tools() {
    let text = |state: BootState| state.variables().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let committed = BootState::committed(SlotId::A);
    let trial = BootState { active: SlotId::B, success: false, trial: TrialId(7), ..committed };
    let [old, new]: [Variables; 2] = [text(committed), text(trial)];
    // How sectors are written down in fw_env.config makes no difference to a write.
    for (number, geometry) in Geometry::all().into_iter().filter(|g| g.sectors.is_empty()).enumerate() {
        let bench = Bench::new(&geometry);
        let places = bench.places();
        bench.seed(&old, geometry.format());
        let single = geometry.copies.len() == 1;
        let target = places.len() - 1;
        if !single {
            // The content that the store replaces: nothing, rubbish, an older state.
            let older = environment(&[("older".to_owned(), "1".to_owned())].into());
            let older = older.encode(geometry.size, Format::Redundant, 0).expect("it fits");
            let other = [vec![0; geometry.size], vec![0x5a; geometry.size], older];
            bench.put(&places[1], &other[number % 3]);
        }
        let before = places.iter().map(|place| bench.copy(place)).collect::<Vec<_>>();
        let loaded = bench.store().load().expect("an environment");
        let next = loaded.environment.with(&trial.variables());
        bench.store().store(&loaded, &next).expect("stored");
        let after = bench.copy(&places[target]);
        for (whole, seen) in tear(&bench, target, [&before[target], &after], [&old, &new]) {
            let wanted = match (whole, single) {
                (true, _) => Seen::New,
                (false, false) => Seen::Old,
                // One copy cannot be had without this: it is for a person only.
                (false, true) => {
                    if seen == Seen::Old {
                        Seen::Old
                    } else {
                        Seen::Nothing
                    }
                }
            };
            assert_eq!(seen, wanted, "{geometry:?}");
        }
        assert!(single || bench.copy(&places[0]) == before[0], "the copy that counted is as it was");
    }
}

#[test]
fn a_torn_store_of_the_tools_is_the_old_state_or_the_new_one_here() {
    let old: Variables = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
    let new: Variables = [("a".to_owned(), "one".to_owned()), ("b".to_owned(), "2".to_owned())].into();
    let redundant = |g: &Geometry| g.copies.len() == 2 && g.sectors.is_empty() && [0x400, 0x2345].contains(&g.size);
    for (tools, geometry) in Tools::BOTH.into_iter().flat_map(|t| Geometry::all().into_iter().map(move |g| (t, g))) {
        if !redundant(&geometry) {
            continue;
        }
        let bench = Bench::new(&geometry);
        let places = bench.places();
        bench.seed(&old, geometry.format());
        let before = bench.copy(&places[1]);
        let output = bench.tool(tools, "fw_setenv", &["a", "one"]);
        assert!(output.status.success(), "{output:?}");
        let after = bench.copy(&places[1]);
        for (whole, seen) in tear(&bench, 1, [&before, &after], [&old, &new]) {
            assert_eq!(seen, if whole { Seen::New } else { Seen::Old }, "{tools:?} {geometry:?}");
        }
    }
}
