//! JSON from outside, read without tolerance.
//!
//! Two parsers that disagree about a document (which of two equal keys counts, where the document ends) are two documents
//! under one signature. The parser refuses every ambiguity, in ignored parts too.

mod objects;

use std::collections::HashSet;
use std::fmt;

use objects::Objects;
use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::base::error::{Error, Reason, Result};
use crate::base::{limits, text};

/// Reads one document of [`limits::JSON_DEPTH`] at most. Repeated keys, an array in the place of a struct and anything after
/// the document are refused.
///
/// `what` names the document in the message.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    let wrong = |e: serde_json::Error| {
        Error::new(Reason::MalformedJson, format!("{what} is not valid: {}", text::escape(&e.to_string())))
    };
    let mut de = serde_json::Deserializer::from_slice(bytes);
    Unambiguous { depth: 0 }.deserialize(&mut de).and_then(|()| de.end()).map_err(wrong)?;
    T::deserialize(Objects(&mut serde_json::Deserializer::from_slice(bytes))).map_err(wrong)
}

/// Walks a document of any shape and keeps nothing but the keys of the open objects.
#[derive(Clone, Copy)]
struct Unambiguous {
    depth: usize,
}

impl Unambiguous {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == limits::JSON_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {}", limits::JSON_DEPTH)));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<Key>()? {
            if !keys.insert(key.0.clone()) {
                return Err(de::Error::custom(format_args!("key \"{}\" twice", key.0)));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Key(String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Exit;
    use proptest::prelude::*;
    use serde_json::Value;

    fn refused(text: &str) -> String {
        let e = parse::<Value>(text.as_bytes(), "test document").unwrap_err();
        assert_eq!(e.exit(), Exit::Data);
        e.message
    }

    #[test]
    fn keys_are_unique_at_every_level_however_they_are_spelled() {
        assert!(refused(r#"{"a":1,"a":1}"#).contains("key \"a\" twice"));
        assert!(refused(r#"{"a":1,"\u0061":1}"#).contains("twice"));
        assert!(refused(r#"[{"x":{"b":{},"b":{}}}]"#).contains("twice"));
        parse::<Value>(br#"{"a":{"a":[{"a":1},{"a":2}]}}"#, "test document").unwrap();
    }

    #[test]
    fn ignored_parts_are_checked_too() {
        #[derive(serde::Deserialize)]
        struct Small {}
        assert!(parse::<Small>(br#"{"ignored":{"a":1,"a":2}}"#, "test document").is_err());
    }

    #[test]
    fn an_array_is_no_struct_at_any_depth() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Outer {
            list: Vec<Inner>,
            maybe: Option<Inner>,
            named: std::collections::BTreeMap<String, Inner>,
            kind: Kind,
        }
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Inner {
            a: u8,
        }
        #[derive(Debug, PartialEq, serde::Deserialize)]
        enum Kind {
            Whole(Inner),
            Fields { a: u8 },
        }
        let read = |text: &str| parse::<Outer>(text.as_bytes(), "test document");
        let good = r#"{"list": [{"a": 1}], "maybe": {"a": 2}, "named": {"x": {"a": 3}}, "kind": {"Whole": {"a": 4}}}"#;
        let inner = |a| Inner { a };
        let named = std::collections::BTreeMap::from([("x".to_owned(), inner(3))]);
        let outer = Outer { list: vec![inner(1)], maybe: Some(inner(2)), named, kind: Kind::Whole(inner(4)) };
        assert_eq!(read(good).unwrap(), outer);
        let fields = good.replace("Whole", "Fields");
        assert_eq!(read(&fields).unwrap().kind, Kind::Fields { a: 4 });
        for n in 1..=4 {
            let (object, array) = (format!("{{\"a\": {n}}}"), format!("[{n}]"));
            for good in [good, &fields] {
                let e = read(&good.replace(&object, &array)).unwrap_err();
                assert!(e.message.contains("invalid type: sequence"), "{n}: {e}");
            }
        }
        read(r#"[[], null, {}, {"Fields": {"a": 4}}]"#).unwrap_err();
    }

    #[test]
    fn nothing_follows_the_document() {
        refused("{}{}");
        refused("{} x");
        refused("");
        parse::<Value>(b" {}\r\n", "test document").unwrap();
    }

    #[test]
    fn depth_ends_at_the_limit() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        parse::<Value>(nested(limits::JSON_DEPTH).as_bytes(), "test document").unwrap();
        assert!(refused(&nested(limits::JSON_DEPTH + 1)).contains("nested"));
        refused(&"[".repeat(1_000_000));
        refused(&r#"{"a":"#.repeat(limits::JSON_DEPTH + 1));
    }

    #[test]
    fn a_message_never_carries_raw_text_of_the_document() {
        #[derive(Debug, serde::Deserialize)]
        struct Number {
            #[serde(rename = "n")]
            _n: u64,
        }
        let e = parse::<Number>("{\"n\":\"\u{1b}[31m\"}".replace('\u{1b}', "\\u001b").as_bytes(), "test").unwrap_err();
        assert!(!e.message.contains('\u{1b}'), "{}", e.message);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse::<Value>(&bytes, "test document");
        }

        #[test]
        fn any_value_without_depth_is_read_as_serde_reads_it(keys in prop::collection::btree_map(".*", any::<i64>(), 0..8)) {
            let bytes = serde_json::to_vec(&keys).unwrap();
            let read: std::collections::BTreeMap<String, i64> = parse(&bytes, "test document").unwrap();
            prop_assert_eq!(read, keys);
        }
    }
}
