//! Device trees, with dtc as the judge.

use std::io::Write as _;
use std::process::{Command, Stdio};

use kubesolo_update::base::error::Reason;
use kubesolo_update::base::limits;
use kubesolo_update::release::devicetree;

use crate::common::registry::find;

const BOARD: &str = r#"/dts-v1/;
/memreserve/ 0x1000 0x2000;
/ {
    compatible = "kubesolo,board";
    #address-cells = <1>;
    #size-cells = <1>;
    chosen { bootargs = "quiet"; };
    memory@0 { device_type = "memory"; reg = <0x0 0x1000000>; };
};
"#;
const OVERLAY: &str = r#"/dts-v1/; /plugin/;
/ { fragment@0 { target-path = "/"; __overlay__ { model = "other"; }; }; };
"#;

/// The output of dtc for `input`; `None` if it refuses it.
fn dtc(from: &str, to: &str, input: &[u8]) -> Option<Vec<u8>> {
    let program = find("dtc").expect("dtc is needed: build/scripts/setup.sh test");
    let mut command = Command::new(program);
    // Two properties of one name, and the like, are not for the form to forbid.
    command
        .args(["-q", "-f", "-I", from, "-O", to, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut running = command.spawn().unwrap();
    // A tree that it refuses at once need not be read to its end.
    let _ = running.stdin.take().unwrap().write_all(input);
    let output = running.wait_with_output().unwrap();
    output.status.success().then_some(output.stdout)
}

fn compiled(source: &str) -> Vec<u8> {
    dtc("dts", "dtb", source.as_bytes()).expect("dtc compiles it")
}

fn refused(bytes: &[u8]) -> String {
    let error = devicetree::check(bytes).unwrap_err();
    assert_eq!((error.reason, error.exit().code()), (Reason::MalformedDevicetree, 65), "{error}");
    error.message
}

#[test]
fn a_tree_of_dtc_is_accepted_and_a_file_that_is_none_refused() {
    let tree = compiled(BOARD);
    devicetree::check(&tree).unwrap();
    assert!(refused(b"").contains("d00dfeed"));
    assert!(refused(BOARD.as_bytes()).contains("d00dfeed"));
    assert!(refused(&[&tree[..], b"\n"].concat()).contains("its header says"));
    assert!(refused(&compiled(OVERLAY)).contains("it is an overlay"));
    for cut in 0..tree.len() {
        refused(&tree[..cut]);
    }
}

/// Damage of the header and of the structure: dtc reads all that is accepted.
#[test]
fn every_tree_that_is_accepted_can_be_read() {
    let tree = compiled(BOARD);
    let mut accepted = 0;
    for at in (0..tree.len()).step_by(4) {
        for value in [0_u32, 1, 3, 9, 0xff, u32::MAX] {
            let mut changed = tree.clone();
            let word = changed.get_mut(at..at + 4);
            let Some(word) = word else { continue };
            word.copy_from_slice(&value.to_be_bytes());
            if changed != tree && devicetree::check(&changed).is_ok() {
                accepted += 1;
                assert!(dtc("dtb", "dts", &changed).is_some(), "word {at} set to {value:#x}");
            }
        }
    }
    assert!(accepted > 20, "the values of properties can be any: {accepted}");
}

#[test]
fn a_tree_has_limits() {
    let filled = |bytes: usize| {
        let data = format!("/dts-v1/;\n/ {{ compatible = \"x\"; data = [{}]; }};", "00".repeat(bytes));
        compiled(&data)
    };
    let over = filled(0).len();
    let most = limits::DEVICETREE_BYTES as usize;
    devicetree::check(&filled(most - over)).unwrap();
    assert_eq!(devicetree::check(&filled(most - over + 4)).unwrap_err().reason, Reason::LimitExceeded);
    let nested =
        |depth: usize| compiled(&format!("/dts-v1/;\n/ {{ {} {} }};", "a {".repeat(depth), "};".repeat(depth)));
    devicetree::check(&nested(limits::DEVICETREE_DEPTH - 1)).unwrap();
    refused(&nested(limits::DEVICETREE_DEPTH));
}
