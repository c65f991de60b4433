//! Every test run reads the inputs that the fuzz targets start from, and those that they once found.

use std::fs;
use std::path::Path;

use kubesolo_update::parsers;
use proptest::prelude::*;
use proptest::sample::Index;

/// Files whose name begins with `good` are accepted, all others refused.
#[test]
fn every_parser_reads_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, parser) in parsers::ALL {
        let entries = fs::read_dir(corpus.join(name)).unwrap_or_else(|e| panic!("no seeds for {name}: {e}"));
        let mut good = 0;
        for path in entries.map(|entry| entry.unwrap().path()) {
            println!("{}", path.display());
            let expected = path.file_name().unwrap().to_str().unwrap().starts_with("good");
            assert_eq!(parser(&fs::read(&path).unwrap()), expected, "{}", path.display());
            good += usize::from(expected);
        }
        assert!(good > 0, "no document that {name} accepts");
    }
    let folders = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for folder in folders {
        assert!(parsers::named(&folder).is_some(), "{folder} is the corpus of nothing");
    }
}

/// A change of a document: what a fuzzer without a memory does.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    Cut(Index),
    Repeat(Index, Index),
    Insert(Index, &'static str),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    // Characters that mean something to one of the parsers.
    let words = [
        "{",
        "}",
        "[",
        "\"",
        ",",
        ":",
        "null",
        "-1",
        "18446744073709551616",
        "\\u0000",
        "\n",
        "=",
        "#",
        "\u{202e}",
        "0",
    ];
    let change = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
        (any::<Index>(), prop::sample::select(words.to_vec())).prop_map(|(at, word)| Change::Insert(at, word)),
    ];
    prop::collection::vec(change, 1..4)
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let place = |at: &Index| at.index(bytes.len() + 1);
    match change {
        Change::Byte(at, byte) => {
            let at = place(at);
            if let Some(there) = bytes.get_mut(at) {
                *there = *byte;
            }
        }
        Change::Cut(at) => bytes.truncate(place(at)),
        Change::Repeat(from, to) => {
            let (from, to) = (place(from).min(place(to)), place(from).max(place(to)));
            let part = bytes[from..to].to_vec();
            bytes.splice(to..to, part);
        }
        Change::Insert(at, word) => {
            let at = place(at);
            bytes.splice(at..at, word.bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Each parser has its own assertions.
    #[test]
    fn no_change_of_a_seed_breaks_a_parser(parser in any::<Index>(), seed in any::<Index>(), changes in changes()) {
        let (name, parser) = parser.get(parsers::ALL);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let mut seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        let mut bytes = fs::read(seed.get(&seeds)).unwrap();
        changes.iter().for_each(|change| apply(&mut bytes, change));
        parser(&bytes);
    }
}

#[test]
fn every_parser_is_a_fuzz_target() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/Cargo.toml")).unwrap();
    for (name, _) in parsers::ALL {
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\n")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), parsers::ALL.len());
}
