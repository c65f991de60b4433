//! All that belongs to a release travels with it: in bundles, and in folders between registries. oras and skopeo read them, and
//! make folders that are taken.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use super::tools::tool;
use super::*;
use crate::cli_support::Device;

const SPDX: &[u8] = br#"{"spdxVersion":"SPDX-2.3","packages":[]}"#;
const BUILD: &[u8] = br#"{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1"}"#;
const UNKNOWN: &str = "application/vnd.example.unknown.v7";

/// A signed release with a bill of materials, a record of its build, a freshness statement, an attachment of an unknown type,
/// and an attachment of that.
struct Release {
    registry: Registry,
    folder: TempDir,
    keys: KeySet,
    published: Published,
}

impl Release {
    fn new() -> Self {
        let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
        let (key, keys) = key(&folder, "key");
        let published = Self::publish(&registry, &folder, "1.0.0", &key);
        let release = Self { registry, folder, keys, published };
        let subject = format!("{}/os@{}", release.registry.address, release.published.manifests[0].1);
        let attach = |subject: &str| {
            std::fs::write(release.folder.path().join("note"), b"note").unwrap();
            let options = ["attach", "--plain-http", "--artifact-type", UNKNOWN, "--format", "json"];
            let made = release.tool("oras", &[&options[..], &[subject, "note:text/plain"]].concat());
            serde_json::from_slice::<Value>(&made).unwrap()["digest"].as_str().unwrap().to_owned()
        };
        let unknown = attach(&subject);
        attach(&format!("{}/os@{unknown}", release.registry.address));
        release
    }

    fn publish(registry: &Registry, folder: &TempDir, version: &str, key: &PrivateKey) -> Published {
        let file = |name: &str, content: &[u8]| {
            std::fs::write(folder.path().join(name), content).unwrap();
            folder.path().join(name)
        };
        let attachments = vec![
            publisher::attachment::Attachment::sbom(&file("sbom", SPDX)).unwrap(),
            publisher::attachment::Attachment::provenance(&file("build", BUILD)).unwrap(),
        ];
        let options = Options { access: access(registry), attachments, ..Options::default() };
        let salt = version.as_bytes()[0];
        let images = [images::files(folder.path(), Amd64, salt), images::files(folder.path(), Arm64, salt + 100)];
        let reference = format!("{}/os", registry.address);
        let keys = std::slice::from_ref(key);
        let published = publisher::release(&reference, &metadata(version), &images, keys, &options).unwrap();
        let place = publisher::freshness::Place::Registry(format!("{reference}:stable"), access(registry));
        let terms = publisher::freshness::Terms { days: 14, serial: None };
        let statement = place.statement(&terms, chrono::Utc::now()).unwrap();
        place.publish(&statement, keys).unwrap();
        published
    }

    fn at(&self, reference: &str) -> String {
        format!("{}/{reference}", self.registry.address)
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> Vec<u8> {
        tool(name, self.folder.path(), arguments).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `kubesolo-release copy`.
    fn copy(&self, from: &str, to: &str) -> Value {
        self.copied(&[from, to]).unwrap()
    }

    fn copied(&self, places: &[&str]) -> Result<Value, Value> {
        let fixed = ["copy", "--json", "--plain-http", &self.registry.address];
        let ran = run(&[&fixed[..], places].concat(), &[]);
        let answer: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{}", text(&ran.stderr)));
        if ran.status.success() { Ok(answer) } else { Err(answer["error"].clone()) }
    }

    /// Types and digests of what is attached to the first manifest in a repository, the statement's serial, and whether a
    /// device would take the release.
    fn inspected(&self, repository: &str) -> (BTreeSet<(String, Digest)>, u64, bool) {
        let found = look(&self.registry, &format!("{repository}:stable"), &self.keys).unwrap();
        let attached = found.manifests[0].attached.iter();
        let attached = attached.map(|one| (one.artifact_type.clone().unwrap_or_default(), one.digest)).collect();
        (attached, found.freshness.as_ref().map_or(0, |statement| statement.serial), found.trusted().is_ok())
    }

    /// All files of the release, by the list of a bundle of it.
    fn files(&self, repository: &str) -> BTreeSet<String> {
        let file = self.path("listed.tar");
        let reference = self.at(&format!("{repository}:stable"));
        publisher::bundle::bundle(&reference, &file, None, &access(&self.registry)).unwrap();
        let listed = self.tool("tar", &["-tf", "listed.tar"]);
        text(&listed).lines().filter(|name| name.starts_with("blobs/")).map(str::to_owned).collect()
    }

    /// A device takes the release from a repository, with a freshness statement.
    fn is_taken_from(&self, repository: &str) {
        let device = Device::new();
        std::fs::copy(self.path("key.pub"), device.path("K")).unwrap();
        device.write("conf", b"require_fresh=yes\n");
        let reference = self.at(repository);
        let source = ["apply", "--registry", &reference, "--tag", "stable", "--plain-http", &self.registry.address];
        device.run(&device.local(&[&source[..], &["--pubkey", "K"]].concat())).code(0);
    }
}

#[test]
fn inspect_names_all_that_is_attached() {
    let release = Release::new();
    let shown = look(&release.registry, "os:stable", &release.keys).unwrap().to_string();
    for part in ["application/spdx+json, 40 bytes", "application/vnd.in-toto+json", UNKNOWN, "freshness statement "] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let (attached, serial, trusted) = release.inspected("os");
    assert!(attached.len() == 3 && serial > 0 && trusted, "{attached:?}");
    // The standard tool finds them by their usual types.
    let subject = release.at(&format!("os@{}", release.published.manifests[0].1));
    for kind in [publisher::attachment::SPDX_TYPE, publisher::attachment::IN_TOTO_TYPE] {
        let found =
            release.tool("oras", &["discover", "--plain-http", "--format", "json", "--artifact-type", kind, &subject]);
        let found: Value = serde_json::from_slice(&found).unwrap();
        assert_eq!(found["manifests"].as_array().unwrap().len(), 1, "{found}");
    }
}

#[test]
fn a_bundle_keeps_types_that_it_does_not_know() {
    let release = Release::new();
    let file = release.path("os.tar");
    publisher::bundle::bundle(&release.at("os:stable"), &file, None, &access(&release.registry)).unwrap();
    let device = Device::new();
    std::fs::copy(release.path("key.pub"), device.path("K")).unwrap();
    device.write("conf", b"require_fresh=yes\n");
    device.run(&device.local(&["apply", "--bundle", path(&file), "--pubkey", "K"])).code(0);

    // Back into a registry by the standard tool, in the two steps that it needs: everything is there.
    for options in [&[][..], &["-r"]] {
        let to = release.at("back:stable");
        let ends = ["--from-oci-layout", "--to-plain-http", "os.tar:stable", &to];
        release.tool("oras", &[&["cp"], options, &ends].concat());
    }
    let subject = release.at(&format!("back@{}", release.published.manifests[0].1));
    let tree = text(&release.tool("oras", &["discover", "--plain-http", &subject]));
    for part in ["application/spdx+json", "application/vnd.in-toto+json", UNKNOWN, "signature.v1+ed25519"] {
        assert!(tree.contains(part), "{part}: {tree}");
    }
    assert_eq!(tree.matches(UNKNOWN).count(), 2, "the attachment of an attachment: {tree}");
}

#[test]
fn a_document_of_an_unknown_kind_is_not_attached() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    let kinds: [(&[u8], bool, bool); 7] = [
        (SPDX, true, false),
        (br#"{"bomFormat":"CycloneDX","specVersion":"1.5"}"#, true, false),
        (br#"{"bomFormat":"other"}"#, false, false),
        (BUILD, false, true),
        (br#"{"payloadType":"application/vnd.in-toto+json","payload":"","signatures":[]}"#, false, true),
        (br#"{"payloadType":"text/plain","payload":""}"#, false, false),
        (b"SPDXVersion: SPDX-2.3", false, false),
    ];
    for (content, is_sbom, is_provenance) in kinds {
        std::fs::write(&file, content).unwrap();
        let (sbom, provenance) =
            (publisher::attachment::Attachment::sbom(&file), publisher::attachment::Attachment::provenance(&file));
        assert_eq!((sbom.is_ok(), provenance.is_ok()), (is_sbom, is_provenance), "{}", text(content));
        for error in [sbom.err(), provenance.err()].into_iter().flatten() {
            assert_eq!((error.reason, error.exit()), (Reason::MalformedAttachment, Exit::Data), "{error}");
        }
    }
}

#[test]
fn a_folder_takes_a_release_to_another_registry_with_all_that_belongs_to_it() {
    let release = Release::new();
    let all = release.files("os");
    let layout = release.path("layout");
    let copied = release.copy(&release.at("os:stable"), path(&layout));
    assert_eq!(copied["files"].as_u64().unwrap() as usize, all.len(), "{copied}");
    assert_eq!(copied["releases"]["stable"], release.published.index.to_string());

    let there = release.copy(path(&layout), &release.at("site"));
    assert_eq!(there["releases"]["stable"], release.published.index.to_string());
    assert_eq!(release.inspected("site"), release.inspected("os"));
    assert_eq!(release.files("site"), all);
    release.is_taken_from("site");

    // A second time nothing is sent or fetched again.
    for (from, to) in [(release.at("os:stable"), path(&layout).to_owned()), (path(&layout).into(), release.at("site"))]
    {
        let again = release.copy(&from, &to);
        let blobs = all.len() - release.documents(&layout);
        assert!(again["present"].as_u64().unwrap() as usize >= blobs, "{again}");
    }
}

#[test]
fn a_refreshed_folder_has_the_new_release_and_no_file_that_nobody_needs() {
    let release = Release::new();
    let layout = release.path("layout");
    let tags = ["first".to_owned()];
    publisher::retag(&release.at("os:stable"), &tags, &release.keys, &access(&release.registry)).unwrap();
    release.copied(&[&release.at("os:stable"), &release.at("os:first"), path(&layout)]).unwrap();
    std::fs::write(layout.join("blobs/sha256/of-another-tool"), b"kept").unwrap();
    let key = PrivateKey::load(&release.path("key")).unwrap();
    let first = release.files("os");
    Release::publish(&release.registry, &release.folder, "2.0.0", &key);
    let second = release.files("os");

    // The other tag keeps the files of the first release, with what is attached to it.
    release.copy(&release.at("os:stable"), path(&layout));
    let names = |layout: &Path| {
        let names = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
        names.map(|name| format!("blobs/sha256/{}", name.unwrap().file_name().display())).collect::<BTreeSet<_>>()
    };
    let statement = first.difference(&names(&layout)).count();
    assert_eq!(statement, 3, "the old freshness statement, its manifest and its signature");
    release.copy(path(&layout), &release.at("site"));
    release.copy(path(&layout), &release.at("one:first"));
    assert_eq!(look(&release.registry, "site:first", &release.keys).unwrap().index, Some(release.published.index));
    assert_eq!(look(&release.registry, "one:first", &release.keys).unwrap().manifests[0].attached.len(), 3);
    assert!(look(&release.registry, "one:stable", &release.keys).is_err(), "only the named one");

    // Without it they go.
    publisher::retag(&release.at("os:stable"), &tags, &release.keys, &access(&release.registry)).unwrap();
    release.copy(&release.at("os:first"), path(&layout));
    let mut expected = second;
    expected.insert("blobs/sha256/of-another-tool".into());
    assert_eq!(names(&layout), expected);
}

#[test]
fn standard_tools_read_a_folder_and_make_one_that_is_taken() {
    let release = Release::new();
    let layout = release.path("layout");
    release.copy(&release.at("os:stable"), path(&layout));
    let raw = release.tool("skopeo", &["inspect", "--raw", "oci:layout:stable"]);
    assert_eq!(Digest::of(&raw), release.published.index);
    let skopeo = |from: &str, to: &str| {
        let fixed = ["copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "--all"];
        release.tool("skopeo", &[&fixed[..], &["--preserve-digests", from, to]].concat());
    };
    skopeo("oci:layout:stable", &format!("docker://{}", release.at("by-skopeo:stable")));
    let discover = ["discover", "--oci-layout", "--platform", "linux/amd64", "layout:stable"];
    let tree = text(&release.tool("oras", &discover));
    assert!(tree.contains(UNKNOWN) && tree.contains("application/spdx+json"), "{tree}");

    // By oras, in the two steps that it needs.
    for options in [&[][..], &["-r"]] {
        let from = release.at("os:stable");
        let ends = ["--from-plain-http", "--to-oci-layout", &from, "by-oras:stable"];
        release.tool("oras", &[&["cp"], options, &ends].concat());
    }
    release.copy(path(&release.path("by-oras")), &release.at("from-oras"));
    let (attached, _, trusted) = release.inspected("from-oras");
    assert!(attached == release.inspected("os").0 && trusted, "{attached:?}");

    // By skopeo, which takes each tag by itself.
    skopeo(&format!("docker://{}", release.at("os:stable")), "oci:by-skopeo:stable");
    for (_, digest) in &release.published.manifests {
        let tag = digest.to_string().replace(':', "-");
        let fixed = ["copy", "--insecure-policy", "--src-tls-verify=false", "--all"];
        let ends = [format!("docker://{}", release.at(&format!("os:{tag}"))), format!("oci:by-skopeo:{tag}")];
        release.tool("skopeo", &[&fixed[..], &[&ends[0], &ends[1]]].concat());
    }
    release.copy(path(&release.path("by-skopeo")), &release.at("from-skopeo"));
    assert!(look(&release.registry, "from-skopeo:stable", &release.keys).unwrap().trusted().is_ok());
}

#[test]
fn an_incomplete_folder_is_refused_before_anything_is_sent() {
    let release = Release::new();
    let layout = release.path("layout");
    release.copy(&release.at("os:stable"), path(&layout));
    let blob = |digest: Digest| layout.join("blobs/sha256").join(digest.hex());
    let index = blob(release.published.index);
    let intact = std::fs::read(&index).unwrap();
    for (bytes, reason) in [(Some(&b"{}"[..]), "digest-mismatch"), (None, "malformed-bundle")] {
        std::fs::remove_file(&index).unwrap();
        bytes.into_iter().for_each(|bytes| std::fs::write(&index, bytes).unwrap());
        if bytes.is_none() {
            assert!(!index.exists());
        }
        let error = release.copied(&[path(&layout), &release.at("site")]).unwrap_err();
        assert_eq!(error["reason"], reason, "{error}");
        std::fs::write(&index, &intact).unwrap();
    }
    let largest = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    std::fs::write(&largest, b"short").unwrap();
    let error = release.copied(&[path(&layout), &release.at("site")]).unwrap_err();
    assert!(error["reason"] == "malformed-bundle" && error["message"].as_str().unwrap().contains("5 bytes, not"));
    assert!(!release.registry.storage().join("repositories/site").exists());
    // The next copy into it repairs it.
    release.copy(&release.at("os:stable"), path(&layout));
    release.copy(path(&layout), &release.at("site"));
    let error = release.copied(&[path(&layout), &release.at("site:beta")]).unwrap_err();
    assert!(error["reason"] == "tag-not-found" && error["message"].as_str().unwrap().contains("it has: stable"));

    // A folder with other files is left alone.
    let other = release.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("photo"), b"x").unwrap();
    let error = release.copied(&[&release.at("os:stable"), path(&other)]).unwrap_err();
    assert_eq!(error["reason"], "usage", "{error}");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
}

/// A folder on a stick was in other hands.
#[test]
fn a_changed_folder_moves_no_tag_of_the_site() {
    let release = Release::new();
    let layout = release.path("layout");
    release.copy(&release.at("os:stable"), path(&layout));
    let kernel = layout.join("blobs/sha256").join(Digest::of(&images::kernel(Amd64, b'1')).hex());
    let (intact, index) = (std::fs::read(&kernel).unwrap(), layout.join("index.json"));
    let mut changed = intact.clone();
    changed[100] ^= 1;
    std::fs::write(&kernel, changed).unwrap();
    assert!(release.copied(&[path(&layout), &release.at("site")]).is_err());
    assert!(look(&release.registry, "site:stable", &release.keys).is_err());
    std::fs::write(&kernel, intact).unwrap();

    let good = std::fs::read_to_string(&index).unwrap();
    for name in ["..", "a b", "-x"] {
        std::fs::write(&index, good.replace(":\"stable\"", &format!(":\"{name}\""))).unwrap();
        let error = release.copied(&[path(&layout), &release.at("site")]).unwrap_err();
        assert!(matches!(error["reason"].as_str(), Some("usage" | "tag-not-found")), "{name}: {error}");
    }
    for (index_json, reason) in [("{", "malformed-bundle"), (r#"{"manifests":[{}]}"#, "malformed-bundle")] {
        std::fs::write(&index, index_json).unwrap();
        assert_eq!(release.copied(&[path(&layout), &release.at("site")]).unwrap_err()["reason"], reason);
    }
    assert!(look(&release.registry, "site:stable", &release.keys).is_err());
}

impl Release {
    /// Number of manifests and indexes in a layout: JSON files with a schema version.
    fn documents(&self, layout: &Path) -> usize {
        let files = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| text(&std::fs::read(file).unwrap()).contains("\"schemaVersion\"")).count()
    }
}
