//! User-data: what is read of it, and how it becomes `update.conf`.

use std::fmt::{self, Write as _};
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use kubesolo_update::base::error::{Context, Error, Reason, Result};
use kubesolo_update::base::{limits, text};
use kubesolo_update::config::{Conf, Config, Overrides};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_saphyr::Spanned;

use crate::yaml::{self, bad};

/// The first line of user-data that is read here.
const CLOUD_CONFIG: &str = "#cloud-config";

/// The settings of user-data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserData {
    /// The `updates:` block in its order; empty without a block.
    pub updates: Vec<Setting>,
    /// Other keys of the top level, in their order: not for this reader.
    pub others: Vec<String>,
}

/// One setting of the `updates:` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As in `update.conf`.
    pub key: String,
    /// As it is written in user-data, without quotes; empty for none.
    pub value: String,
    /// Where in user-data the key is.
    pub line: usize,
}

/// Unpacks user-data, which may be packed with gzip. `what` names it in messages.
///
/// # Errors
/// 65 beyond [`limits::USER_DATA_BYTES`], packed or not, and for what does not unpack.
pub fn unpack(bytes: &[u8], what: &str) -> Result<Vec<u8>> {
    let mut plain = vec![];
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let unpacked = MultiGzDecoder::new(bytes).take(limits::USER_DATA_BYTES + 1).read_to_end(&mut plain);
        unpacked.context(Reason::MalformedUserData, format_args!("unpack {what}"))?;
    } else {
        plain.extend_from_slice(bytes);
    }
    if plain.len() as u64 > limits::USER_DATA_BYTES {
        let message = format!("{what}: more than the limit of {} bytes after unpacking", limits::USER_DATA_BYTES);
        return Err(Error::new(Reason::LimitExceeded, message));
    }
    Ok(plain)
}

impl UserData {
    /// Reads unpacked user-data, which is called `what` in messages.
    ///
    /// # Errors
    /// 78 for what is not `#cloud-config`, is no YAML, or has settings that the agent does not take; the message names key
    /// and line.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let all = yaml::text(bytes, what)?;
        if all.trim().is_empty() {
            return Ok(Self::default());
        }
        is_cloud_config(all, what)?;
        let Document(found) = yaml::parse::<Option<Document>>(all, what)?.unwrap_or_default();
        found.check(what)?;
        Ok(found)
    }

    /// The agent itself reads the settings: what it would refuse or warn of later is refused now.
    fn check(&self, what: &str) -> Result<()> {
        let mut conf = Conf::named(what);
        for Setting { key, value, line } in &self.updates {
            // In update.conf a line is a setting, and what stands around a value does not count.
            if value.contains(char::is_control) || value.trim() != value {
                // The value is not shown: it may contain a password.
                let message = format!(
                    "{what}:{line}: updates.{}: expected a value in one line without blanks around it",
                    text::escape(key)
                );
                return Err(bad(message));
            }
            conf.add(key, value, *line).map_err(|e| bad(e.message))?;
        }
        if let Some(unknown) = conf.warnings.first() {
            let remedy = format!("Nothing was changed. {}", unknown.remedy);
            return Err(bad(unknown.to_string()).remedy(remedy));
        }
        let refused = Config::resolve(&conf, &Overrides::default()).err();
        refused.map_or(Ok(()), |e| Err(bad(e.message)))
    }

    /// The bytes of `update.conf`. `from` says where they come from.
    #[must_use]
    pub fn conf(&self, from: &str) -> String {
        let mut conf = format!("# Written at first boot from {}.\n", text::escape(from));
        for Setting { key, value, .. } in &self.updates {
            let _ = writeln!(conf, "{key}={value}");
        }
        conf
    }
}

fn is_cloud_config(all: &str, what: &str) -> Result<()> {
    let first = all.lines().next().unwrap_or_default();
    if first.trim_end() == CLOUD_CONFIG {
        return Ok(());
    }
    let (is, remedy) = kind(all).unwrap_or(("not cloud-config", "Its first line must be #cloud-config."));
    Err(bad(format!("{what}:1: it begins with \"{}\": it is {is}", text::escape(first)))
        .remedy(format!("Nothing was changed. {remedy}")))
}

/// Kinds of user-data that cloud-init reads, with the way to the one that is read here.
fn kind(all: &str) -> Option<(&'static str, &'static str)> {
    let lower = all.lines().next()?.to_ascii_lowercase();
    let begins = |begin: &[&str]| begin.iter().any(|begin| lower.starts_with(begin));
    Some(if begins(&["content-type:", "mime-version:"]) {
        ("MIME multipart, which is not supported", "Give its text/cloud-config part by itself.")
    } else if begins(&["#!"]) {
        ("a script, which is not supported", "Give a #cloud-config document with an updates: block.")
    } else if begins(&["## template:"]) {
        ("a template (jinja), which is not supported", "Give the #cloud-config document that it makes.")
    } else if begins(&["#include"]) {
        ("a list of addresses (#include), which is not supported", "Give the #cloud-config document itself.")
    } else if begins(&["#cloud-config-archive"]) {
        ("an archive of documents, which is not read here", "Give its text/cloud-config part by itself.")
    } else if begins(&["#cloud-boothook", "#part-handler", "#cloud-config-jsonp"]) {
        ("for the real cloud-init alone", "Give a #cloud-config document with an updates: block.")
    } else if is_base64(all) {
        ("encoded in Base64, which is not decoded here", "Give the document as it is: base64 -d user-data")
    } else {
        return None;
    })
}

/// True if this is user-data in Base64: of cloud-config, a script, MIME or gzip.
fn is_base64(all: &str) -> bool {
    let packed: String = all.split_ascii_whitespace().collect();
    let begin = packed.as_bytes().get(..packed.len().min(64) / 4 * 4).unwrap_or_default();
    let decoded = STANDARD.decode(begin).unwrap_or_default();
    decoded.starts_with(b"#")
        || decoded.starts_with(&[0x1f, 0x8b])
        || decoded.to_ascii_lowercase().starts_with(b"content-type:")
}

/// The error of a merge key, which would bring keys that nobody sees here.
fn merge_key<E: de::Error>(place: &str) -> E {
    E::custom(format_args!("{place}<<: YAML merge keys are not supported: write the keys in full"))
}

/// The top level: `updates` is read, other keys are for others.
#[derive(Default)]
struct Document(UserData);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopLevel;
        impl<'de> Visitor<'de> for TopLevel {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys with values, such as updates:")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = UserData::default();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let (line, key) = (key.referenced.line(), key.value);
                    if key == "updates" {
                        let block: Option<Block> = map.next_value()?;
                        found.updates = block.map(|Block(settings)| settings).unwrap_or_default();
                    } else if key == "<<" {
                        return Err(merge_key(&format!("line {line}: ")));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        found.others.push(key);
                    }
                }
                Ok(Document(found))
            }
        }
        deserializer.deserialize_map(TopLevel)
    }
}

/// The `updates:` block: scalars only.
struct Block(Vec<Setting>);

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Settings;
        impl<'de> Visitor<'de> for Settings {
            type Value = Block;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys of update.conf with their values below updates:")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut settings = vec![];
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let line = usize::try_from(key.referenced.line()).unwrap_or_default();
                    let key = key.value;
                    if key == "<<" {
                        return Err(merge_key("updates."));
                    }
                    // A number stays as it is written: 1.10 is a tag, and not 1.1.
                    let value: Option<String> = map.next_value().map_err(|e| {
                        de::Error::custom(format_args!("updates.{key}: one value in one line is wanted ({e})"))
                    })?;
                    settings.push(Setting { key, value: value.unwrap_or_default(), line });
                }
                Ok(Block(settings))
            }
        }
        deserializer.deserialize_map(Settings)
    }
}
