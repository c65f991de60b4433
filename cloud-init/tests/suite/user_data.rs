//! User-data of any content: update.conf says the same as accepted data; a refusal has one line.

use kubesolo_cloudinit::user_data::{UserData, unpack};
use kubesolo_update::config::{Conf, Config, Overrides, rows};
use proptest::prelude::*;
use proptest::sample::Index;

const EXAMPLE: &str = include_str!("../../examples/updates.yaml");

/// The rules for every document; true if it is accepted.
fn holds(bytes: &[u8]) -> bool {
    match UserData::parse(bytes, "user-data") {
        Err(error) => {
            assert!(error.message.bytes().all(|b| matches!(b, b' '..=b'~')), "{:?}", error.message);
            false
        }
        Ok(user_data) => {
            let text = user_data.conf("a test\n");
            assert_eq!(text.lines().count(), 1 + user_data.updates.len(), "{text:?}");
            let conf = Conf::parse(text.as_bytes(), "update.conf").unwrap();
            assert_eq!(conf.warnings, []);
            Config::resolve(&conf, &Overrides::default()).unwrap();
            true
        }
    }
}

/// The rows of the agent's settings decide here too.
#[test]
fn user_data_takes_each_setting_of_the_agent_and_no_other() {
    for setting in rows::all() {
        // These two are set together or not at all.
        let partner = match setting.key {
            "registry_cert" => "  registry_key: /etc/kubesolo/client-key.pem\n",
            "registry_key" => "  registry_cert: /etc/kubesolo/client.pem\n",
            _ => "",
        };
        let document = |value: &str| format!("#cloud-config\nupdates:\n  {}: '{value}'\n{partner}", setting.key);
        let taken = UserData::parse(document(setting.typical()).as_bytes(), "user-data").unwrap();
        assert_eq!(taken.updates[0].value, setting.typical());
        let odd = "\u{1}://?";
        assert!(UserData::parse(document(odd).as_bytes(), "user-data").is_err(), "{}", setting.key);
        let refused = UserData::parse(document("a b://c").as_bytes(), "user-data").is_err();
        assert_eq!(refused, setting.check("a b://c").is_err(), "{}", setting.key);
    }
    let unknown = UserData::parse(b"#cloud-config\nupdates:\n  chanel: beta\n", "user-data").unwrap_err();
    assert!(
        unknown.message.ends_with("user-data:3: unknown key \"chanel\" has no effect. Did you mean channel?"),
        "{unknown}"
    );
}

proptest! {
    #[test]
    fn a_value_means_the_same_in_the_file_or_is_refused(value in any::<String>()) {
        let quoted = serde_json::to_string(&value).unwrap();
        let document = format!("#cloud-config\nupdates:\n  channel: {quoted}\n");
        if holds(document.as_bytes()) {
            let conf = UserData::parse(document.as_bytes(), "user-data").unwrap().conf("a test");
            let config = Config::resolve(&Conf::parse(conf.as_bytes(), "update.conf").unwrap(), &Overrides::default()).unwrap();
            prop_assert_eq!(config.channel.unwrap_or_default(), value);
        }
    }

    #[test]
    fn an_ordinary_value_is_taken(value in "[A-Za-z0-9._/:=#-]{1,40}") {
        let document = format!("#cloud-config\nupdates:\n  tag: '{value}'\n");
        prop_assert!(holds(document.as_bytes()));
    }

    #[test]
    fn damaged_user_data_is_told_in_one_line(
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4), cut in any::<Index>(), keep in any::<bool>()
    ) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !keep {
            bytes.truncate(cut.index(bytes.len()));
        }
        holds(&bytes);
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        holds(&bytes);
        holds(&[b"#cloud-config\n", &bytes[..]].concat());
        let _ = unpack(&bytes, "user-data");
        let _ = unpack(&[&[0x1f, 0x8b, 8][..], &bytes[..]].concat(), "user-data");
    }
}
