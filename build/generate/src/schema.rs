//! JSON Schemas of the documents that both programs print, from the types that they print: their definitions, serde
//! attributes and documentation, as rustfmt lays them out. `docs/schema` has the result.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Sources of each program, from the top of the repository.
const AGENT: &str = "agent/src";
const PUBLISHER: &str = "publisher/src";

/// One document, or a list of them.
struct Document {
    /// Program that prints it, and the folder of its schema.
    program: &'static str,
    /// Name of the schema's file, without its end.
    name: &'static str,
    /// The commands that print it.
    printed_by: &'static str,
    /// File of the type, from the top of the repository.
    file: String,
    /// The type.
    kind: &'static str,
    /// An array of this type: a list has no member `schema`.
    list: bool,
}

/// File, commands, file of the type, and type.
type Row = [&'static str; 4];

const OF_AGENT: [Row; 20] = [
    ["status", "status", "report/status.rs", "Status"],
    ["check", "check; run with auto=check", "update/check.rs", "CheckReport"],
    ["apply", "apply, activate, run", "update/update.rs", "ApplyReport"],
    ["no-stick", "run without a source but removable media, which offer nothing", "cli/verbs/unattended.rs", "NoStick"],
    ["rollback", "rollback", "update/trial.rs", "RollbackReport"],
    ["healthcheck", "healthcheck", "cli/verbs/healthcheck.rs", "HealthDocument"],
    ["verify", "verify", "cli/verbs/reports.rs", "VerifyDocument"],
    ["adopt", "adopt", "update/adopt.rs", "Adopted"],
    ["disk", "disk", "cli/verbs/disk.rs", "DiskDocument"],
    ["config-check", "config check", "config/report.rs", "Checked"],
    ["trust-reset-time", "trust reset-time", "cli/verbs/trust.rs", "ResetDocument"],
    ["data", "data", "update/data.rs", "StepReport"],
    ["data-status", "data status", "cli/verbs/data.rs", "StatusDocument"],
    ["data-check", "data check", "cli/verbs/data.rs", "CheckDocument"],
    ["data-drop", "data drop", "cli/verbs/data.rs", "DropDocument"],
    ["history-last", "history --last", "cli/verbs/reports.rs", "LastDocument"],
    ["intake", "intake add, intake show", "state/intake.rs", "Intake"],
    ["intake-drop", "intake drop", "cli/verbs/intake.rs", "DropDocument"],
    ["error", "a command that fails", "cli/output.rs", "ErrorDocument"],
    ["progress", "--progress json, each line on standard error", "base/console/progress.rs", "Step"],
];

const LISTS_OF_AGENT: [Row; 7] = [
    ["config-show", "config show", "config/report.rs", "Effective"],
    ["history", "history", "state/history.rs", "Entry"],
    ["doctor", "doctor", "report/doctor.rs", "Finding"],
    ["metrics", "metrics", "report/metrics.rs", "Series"],
    ["explain", "explain", "cli/explain.rs", "Explained"],
    ["receipt", "receipt", "state/receipt.rs", "SignedReceipt"],
    ["intake-list", "intake list", "state/intake.rs", "Intake"],
];

const OF_PUBLISHER: [Row; 17] = [
    ["keygen", "keygen", "answer.rs", "NewKey"],
    ["publish", "publish", "answer.rs", "Published"],
    ["sign", "sign", "answer.rs", "Signed"],
    ["payload", "payload", "answer.rs", "Payloads"],
    ["attach", "attach", "answer.rs", "Attached"],
    ["freshness", "freshness", "answer.rs", "Freshness"],
    ["verify", "verify", "answer.rs", "Verified"],
    ["inspect", "inspect", "inspect.rs", "Inspection"],
    ["list", "list", "list.rs", "Listing"],
    ["receipts", "receipts", "receipts.rs", "Table"],
    ["tag", "tag", "answer.rs", "Tagged"],
    ["bundle", "bundle", "answer.rs", "Bundled"],
    ["copy", "copy", "answer.rs", "Copied"],
    ["repack", "repack", "answer.rs", "Repacked"],
    ["factory", "factory", "answer.rs", "Factory"],
    ["explain", "explain", "answer.rs", "Reasons"],
    ["error", "a command that fails", "answer.rs", "Failed"],
];

fn documents() -> Vec<Document> {
    let of = |program, sources: &str, list, [name, printed_by, file, kind]: Row| Document {
        program,
        name,
        printed_by,
        file: format!("{sources}/{file}"),
        kind,
        list,
    };
    let objects = OF_AGENT.into_iter().map(|row| of("kubesolo-update", AGENT, false, row));
    let lists = LISTS_OF_AGENT.into_iter().map(|row| of("kubesolo-update", AGENT, true, row));
    let published = OF_PUBLISHER.into_iter().map(|row| of("kubesolo-release", PUBLISHER, false, row));
    objects.chain(lists).chain(published).collect()
}

/// Types whose values are texts in JSON.
const TEXTS: [&str; 7] = ["String", "&'static str", "str", "PathBuf", "Path", "Fingerprint", "Reason"];

/// A definition in a source file.
enum Definition {
    Struct(Vec<Field>),
    /// All texts of a closed set of words.
    Words(Vec<String>),
    /// A tagged enum: the member for the variant, its words, and the members of all variants.
    Variants {
        tag: String,
        words: Vec<String>,
        fields: Vec<Field>,
    },
}

struct Field {
    name: String,
    kind: String,
    about: String,
    serde: String,
}

impl Field {
    fn has(&self, word: &str) -> bool {
        self.serde.contains(word)
    }

    fn value(&self, key: &str) -> Option<&str> {
        value(&self.serde, key)
    }
}

/// The value of a serde attribute such as `rename = "…"`.
fn value<'a>(serde: &'a str, key: &str) -> Option<&'a str> {
    serde.split_once(&format!("{key} = \""))?.1.split('"').next()
}

/// All definitions, by file and name, and where each file gets the names of others from.
#[derive(Default)]
struct Types {
    all: BTreeMap<(PathBuf, String), Definition>,
    imports: BTreeMap<(PathBuf, String), PathBuf>,
}

/// Writes one schema per document below `into`, in a folder for each program. `top` is the folder of the repository.
///
/// # Errors
/// A type that is not there, or has a form that this program does not know.
pub(crate) fn write(top: &Path, into: &Path) -> Result<(), Box<dyn Error>> {
    let mut types = Types::default();
    for sources in [AGENT, PUBLISHER] {
        types.read(top, &top.join(sources))?;
    }
    for document in documents() {
        let folder = into.join(document.program);
        fs::create_dir_all(&folder)?;
        let text = serde_json::to_string_pretty(&types.schema(&document)?)?;
        fs::write(folder.join(format!("{}.json", document.name)), text + "\n")?;
    }
    Ok(())
}

impl Types {
    fn read(&mut self, root: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.read(root, &path)?;
            } else if path.extension().is_some_and(|end| end == "rs") {
                self.read_file(path.strip_prefix(root)?, &fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    /// `use crate::folder::file::{Name, Other};`, also `super` and `kubesolo_update` of the publisher.
    fn read_imports(&mut self, file: &Path, text: &str) {
        let own = if file.starts_with(AGENT) { AGENT } else { PUBLISHER };
        let folder = file.parent().unwrap_or(file);
        for (word, sources) in [("crate", own.as_ref()), ("super", folder), ("kubesolo_update", AGENT.as_ref())] {
            for import in text.split(&format!("\nuse {word}::")).skip(1) {
                let import: String = import.split(';').next().unwrap_or_default().split_whitespace().collect();
                let Some((module, names)) = import.rsplit_once("::{").or(import.rsplit_once("::")) else { continue };
                let from = sources.join(module.replace("::", "/")).with_extension("rs");
                for name in names.trim_end_matches('}').split(',') {
                    self.imports.insert((file.to_owned(), name.to_owned()), from.clone());
                }
            }
        }
    }

    fn read_file(&mut self, file: &Path, text: &str) {
        self.read_imports(file, text);
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let trimmed = line.trim_start();
            let indent = line.len() - trimmed.len();
            let bare = trimmed.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            let bare = bare.trim_start_matches("pub(in crate::cli) ").trim_start_matches("pub ");
            let Some((what, rest)) = bare.split_once(' ').filter(|(what, _)| matches!(*what, "struct" | "enum")) else {
                continue;
            };
            let Some(name) = rest.strip_suffix(" {") else { continue };
            let name = name.split('<').next().unwrap_or_default().to_owned();
            let end = format!("{}}}", " ".repeat(indent));
            let body: Vec<_> =
                lines[at + 1..].iter().take_while(|line| **line != end).map(|line| line.trim()).collect();
            let before: Vec<_> =
                lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with(['#', '/'])).collect();
            let serde =
                before.iter().map(|line| line.trim()).filter(|line| line.starts_with("#[serde")).collect::<String>();
            let definition = match what {
                "struct" => Definition::Struct(fields(&body)),
                _ if serde.contains("tag = ") => variants(&body, &serde),
                _ => Definition::Words(words(&body, &serde)),
            };
            self.all.insert((file.to_owned(), name), definition);
        }
    }

    fn schema(&self, document: &Document) -> Result<Value, Box<dyn Error>> {
        let file = Path::new(&document.file);
        let mut schema = self.object(file, document.kind)?;
        if !document.list {
            schema["properties"]["schema"] = json!({"const": 1, "description": "Version of this document."});
            let required = schema["required"].as_array_mut().ok_or("no list")?;
            required.retain(|name| name != "schema");
            required.insert(0, json!("schema"));
        }
        if document.list {
            schema = json!({"type": "array", "items": schema});
        }
        schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        schema["title"] = json!(format!("{} {}", document.program, document.name));
        schema["description"] = json!(format!("Printed by: {}.", document.printed_by));
        Ok(schema)
    }

    /// The definition of a name as `file` uses it: its own, an imported one, or the only one of this name. A path such as
    /// `freshness::FreshnessReport` is in the file of its last module.
    fn find(&self, file: &Path, name: &str) -> Result<(&Path, &Definition), Box<dyn Error>> {
        let (module, name) =
            name.rsplit_once("::").map_or((None, name), |(path, name)| (path.rsplit("::").next(), name));
        let fits = |path: &Path| module.is_none_or(|module| path.file_stem().is_some_and(|stem| stem == module));
        let key = (file.to_owned(), name.to_owned());
        let imported = self.imports.get(&key).map(|from| (from.clone(), name.to_owned()));
        let own = self.all.get_key_value(&key).or(imported.and_then(|key| self.all.get_key_value(&key)));
        let mut anywhere = self.all.iter().filter(|((path, other), _)| other == name && fits(path));
        let found = match (own.filter(|((path, _), _)| fits(path)), anywhere.next(), anywhere.next()) {
            (Some(found), ..) | (None, Some(found), None) => found,
            (None, Some(_), Some(_)) => return Err(format!("{name} of {} has two meanings", file.display()).into()),
            (None, None, _) => return Err(format!("{name} of {} is not defined", file.display()).into()),
        };
        Ok((&found.0.0, found.1))
    }

    fn object(&self, file: &Path, name: &str) -> Result<Value, Box<dyn Error>> {
        match self.find(file, name)? {
            (file, Definition::Struct(fields)) => {
                let (mut properties, mut required) = (Map::new(), vec![]);
                for field in fields.iter().filter(|field| field.serde != "#[serde(skip)]") {
                    self.member(file, field, &mut properties, &mut required)?;
                }
                Ok(json!({"type": "object", "properties": properties, "required": required}))
            }
            _ => Err(format!("{name} is not a struct").into()),
        }
    }

    fn member(
        &self,
        file: &Path,
        field: &Field,
        properties: &mut Map<String, Value>,
        required: &mut Vec<String>,
    ) -> Result<(), Box<dyn Error>> {
        let optional = field.has("skip_serializing_if");
        if field.has("flatten") {
            let kind = field.kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>'));
            let inner = kind.unwrap_or(&field.kind);
            if let (file, Definition::Variants { tag, words, fields }) = self.find(file, inner)? {
                let about = json!({"type": "string", "enum": words, "description": field.about});
                properties.insert(tag.clone(), about);
                required.push(tag.clone());
                for field in fields {
                    self.member(file, field, properties, &mut vec![])?;
                }
                return Ok(());
            }
            let object = self.object(file, inner)?;
            properties.extend(object["properties"].as_object().cloned().unwrap_or_default());
            if kind.is_none() {
                required.extend(
                    object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned),
                );
            }
            return Ok(());
        }
        let name = field.value("rename").unwrap_or(&field.name).to_owned();
        // An absent member is never null.
        let kind = match field.kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>')) {
            Some(inner) if optional => inner,
            _ => &field.kind,
        };
        let mut schema = self.of_type(file, kind, field.value("with").or(field.value("serialize_with")))?;
        if field.about.is_empty() {
            return Err(format!("{name} of {} has no documentation", file.display()).into());
        }
        let mut about = field.about.replace("`None`", "null").replace(['[', ']'], "");
        if schema.get("anyOf").is_some() {
            about = about.replace("absent", "null").replace("Absent", "Null");
        }
        schema["description"] = json!(about);
        properties.insert(name.clone(), schema);
        if !optional {
            required.push(name);
        }
        Ok(())
    }

    fn of_type(&self, file: &Path, kind: &str, with: Option<&str>) -> Result<Value, Box<dyn Error>> {
        let inner = |generic: &str| kind.strip_prefix(generic).and_then(|kind| kind.strip_suffix('>'));
        if let Some(inner) = inner("Option<") {
            return Ok(json!({"anyOf": [self.of_type(file, inner, with)?, {"type": "null"}]}));
        }
        let list = inner("Vec<").or(inner("BTreeSet<"));
        let list = list.or(kind.strip_prefix("&'a [").and_then(|kind| kind.strip_suffix(']')));
        let values = inner("BTreeMap<").and_then(|both| both.split_once(", ")).map(|(_, value)| value);
        Ok(match (with, kind) {
            (Some("as_map"), _) => json!({"type": "object", "additionalProperties": {"type": "string"}}),
            (Some(with), _) if with.ends_with("seconds") => json!({"type": "string", "format": "date-time"}),
            (Some(_), _) => json!({"type": "string"}),
            (None, _) if list.is_some() => {
                json!({"type": "array", "items": self.of_type(file, list.unwrap_or_default(), None)?})
            }
            (None, _) if values.is_some() => {
                let value = self.of_type(file, values.unwrap_or_default(), None)?;
                json!({"type": "object", "additionalProperties": value})
            }
            (None, "bool") => json!({"type": "boolean"}),
            (None, "u8" | "u16" | "u32" | "u64" | "usize") => json!({"type": "integer", "minimum": 0}),
            (None, "Digest") => json!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}),
            (None, kind) if TEXTS.contains(&kind.trim_start_matches("&'a ")) => json!({"type": "string"}),
            // A word, or one that another version of the agent wrote.
            (None, kind) if kind.starts_with("Recorded<") => json!({"type": "string"}),
            (None, kind) => match self.find(file, kind)?.1 {
                Definition::Words(words) => json!({"type": "string", "enum": words}),
                Definition::Struct(_) => self.object(file, kind)?,
                Definition::Variants { .. } => return Err(format!("{kind} stands alone").into()),
            },
        })
    }
}

/// The fields in the body of a struct, or of all variants of an enum.
fn fields(body: &[&str]) -> Vec<Field> {
    let (mut found, mut about, mut serde) = (vec![], vec![], String::new());
    let mut attribute = String::new();
    for line in body {
        if let Some(text) = line.strip_prefix("///") {
            about.push(text.trim());
        } else if line.starts_with('#') || !attribute.is_empty() {
            attribute.push_str(line);
            if line.ends_with(']') {
                serde.push_str(&std::mem::take(&mut attribute));
            }
        } else if let Some((name, kind)) = line.trim_end_matches(',').split_once(": ") {
            let name = name.rsplit(' ').next().unwrap_or_default().to_owned();
            found.push(Field {
                name,
                kind: kind.to_owned(),
                about: about.join(" "),
                serde: std::mem::take(&mut serde),
            });
            about.clear();
        } else {
            about.clear();
            serde.clear();
        }
    }
    found
}

/// The variants of a tagged enum. Their names begin with a capital letter, their fields do not.
fn variants(body: &[&str], serde: &str) -> Definition {
    let names: Vec<_> = body.iter().map(|line| line.trim_end_matches([' ', '{', ','])).collect();
    let names: Vec<_> = names.into_iter().filter(|name| name.starts_with(char::is_uppercase)).collect();
    let tag = value(serde, "tag").unwrap_or_default().to_owned();
    Definition::Variants { tag, words: words(&names, serde), fields: fields(body) }
}

/// The words of an enum: each with its text, or by the rule of serde.
fn words(body: &[&str], serde: &str) -> Vec<String> {
    let variants = body.iter().filter(|line| !line.starts_with(['/', '#'])).map(|line| line.trim_end_matches(','));
    variants
        .filter(|line| !line.is_empty())
        .map(|line| match line.split_once(" = \"") {
            Some((_, text)) => text.trim_end_matches('"').to_owned(),
            None if serde.contains("kebab-case") => kebab(line),
            None => line.to_lowercase(),
        })
        .collect()
}

fn kebab(name: &str) -> String {
    name.chars().enumerate().fold(String::new(), |mut word, (at, letter)| {
        if at > 0 && letter.is_ascii_uppercase() {
            word.push('-');
        }
        word.push(letter.to_ascii_lowercase());
        word
    })
}
