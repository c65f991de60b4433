//! Documents of `--json`, judged by python3-jsonschema with the schemas of `docs/schema`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Reads a list of pairs, schema and document. A member that the schema does not name is a fault here.
const JUDGE: &str = r#"
import datetime, json, sys
from jsonschema import Draft202012Validator, FormatChecker

formats = FormatChecker(())

@formats.checks("date-time", raises=ValueError)
def date_time(text):
    return not isinstance(text, str) or datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")

def closed(schema):
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(one) for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema["additionalProperties"] = False
    return schema

wrong = 0
for path, document in json.load(sys.stdin):
    schema = json.load(open(path))
    Draft202012Validator.check_schema(schema)
    for error in Draft202012Validator(closed(schema), format_checker=formats).iter_errors(document):
        wrong += 1
        print(path, error.json_path, error.message, json.dumps(document), sep=": ")
sys.exit(wrong != 0)
"#;

/// The documents of one program.
pub struct Documents {
    schemas: PathBuf,
    all: Vec<Value>,
    seen: BTreeSet<String>,
}

impl Documents {
    pub fn of(program: &str) -> Self {
        let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema").join(program);
        Self { schemas, all: vec![], seen: BTreeSet::new() }
    }

    pub fn add(&mut self, schema: &str, document: &Value) {
        self.seen.insert(schema.to_owned());
        self.all.push(json!([self.schemas.join(format!("{schema}.json")), document]));
    }

    /// Each document fits its schema, and there was one for each schema but these.
    #[track_caller]
    pub fn judge(&self, but: &[&str]) {
        let mut python = Command::new("/usr/bin/python3")
            .args(["-c", JUDGE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the python3 of Debian");
        python.stdin.take().unwrap().write_all(json!(self.all).to_string().as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let files = std::fs::read_dir(&self.schemas).unwrap();
        let files = files.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
        let missing: Vec<_> = files.filter(|name| !self.seen.contains(name) && !but.contains(&&**name)).collect();
        assert!(missing.is_empty(), "no document for {missing:?}");
    }
}
