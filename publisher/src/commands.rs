//! From the command line of `kubesolo-release` to an exit code: runs what is asked for, prints what was done.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use log::LevelFilter;
use simple_logger::SimpleLogger;

use super::answer::{self, Answer, by_architecture};
use super::attachment::Attachment;
use super::cli::{
    Attach, Bundle, Cli, Command, Copy, ExtrasArgs, Factory, Format, Freshness, Inspect, Keygen, List, Payload,
    Publish, Receipts, Repack, Sign, Tag, Verify,
};
use super::extras::Extras;
use super::factory::Content;
use super::freshness::{Place, Terms};
use super::key::{PrivateKey, PublicFormat};
use super::receipts::Table;
use super::registry::Access;
use super::{Images, Metadata, Options, date, factory, http};
use kubesolo_update::base::{console, text};
use kubesolo_update::cli::explain;
use kubesolo_update::config::{Conf, Config, Overrides};
use kubesolo_update::release::release::Architecture;
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::{Error, Exit, Reason, Result};

/// Adds a line to a text.
macro_rules! say {
    ($text:ident, $($words:tt)*) => { $text.push_str(&format!("{}\n", format_args!($($words)*))) };
}

/// True if the value is a private key itself: no message may repeat it.
fn has_key(arguments: impl Iterator<Item = OsString>) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    arguments.into_iter().any(|one| one.as_encoded_bytes().windows(MARK.len()).any(|part| part == MARK))
}

/// Runs `kubesolo-release` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    if has_key(std::env::args_os()) {
        console::print_error(
            "kubesolo-release: a private key was given on the command line, where every process can read it\n\
             Replace the key, and give the name of a file that holds the new one.\n",
        );
        return ExitCode::from(Exit::Usage.code());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // help and version go to stdout and are no error
            console::note_output(e.print());
            if e.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                let error = Error::new(Reason::Usage, e.to_string());
                answer::print_error(&error);
            }
            return ExitCode::from(match (e.use_stderr(), console::all_printed()) {
                (true, _) => Exit::Usage.code(),
                (false, said) => said.map_or_else(|lost| lost.exit().code(), |()| 0),
            });
        }
    };
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => LevelFilter::Error,
        (_, true) => LevelFilter::Debug,
        _ => LevelFilter::Info,
    };
    // Only our own messages: the debug output of an HTTP library may hold tokens.
    let levels = SimpleLogger::new()
        .with_level(LevelFilter::Off)
        .with_module_level("kubesolo_release", level)
        .with_module_level("kubesolo_update", level);
    console::log_to_stderr(levels);
    let result = match run(cli.command) {
        Ok(answer) => answer.print(cli.json),
        Err(error) => {
            if cli.json {
                answer::print_error(&error);
            }
            Err(error)
        }
    };
    match result.and_then(|()| console::all_printed()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let remedy = if e.remedy.is_empty() { String::new() } else { format!("  {}\n", e.remedy) };
            console::print_error(&format!(
                "kubesolo-release: {e}\n{remedy}{}",
                explain::hint("kubesolo-release", e.reason)
            ));
            ExitCode::from(e.exit().code())
        }
    }
}

fn run(command: Command) -> Result<Answer> {
    match command {
        Command::Keygen(args) => keygen(args),
        Command::Publish(args) => publish(*args),
        Command::Sign(args) => sign(args),
        Command::Payload(args) => payload(args),
        Command::Attach(args) => attach(args),
        Command::Freshness(args) => freshness(args),
        Command::Verify(args) => verify(args),
        Command::Inspect(args) => inspect(args),
        Command::List(args) => list(args),
        Command::Receipts(args) => receipts(&args),
        Command::Tag(args) => tag(args),
        Command::Bundle(args) => bundle(args),
        Command::Copy(args) => copy(args),
        Command::Repack(args) => repack(&args),
        Command::Factory(args) => factory(*args),
        Command::Explain(args) => {
            let word = args.word.as_deref();
            Answer::new(explain::text(word), &answer::Reasons { reasons: explain::explained(word) })
        }
    }
}

fn keygen(args: Keygen) -> Result<Answer> {
    let (format, name) = match args.public_format {
        Format::Pem => (PublicFormat::Pem, "public.pem"),
        Format::Hex => (PublicFormat::Hex, "public.hex"),
    };
    let (private, public) = match (args.dir, args.private, args.public) {
        (Some(dir), ..) => {
            std::fs::create_dir_all(&dir)
                .map_err(|e| Error::new(Reason::KeyNotWritten, format!("cannot create {}: {e}", dir.display())))?;
            (dir.join("private.pem"), dir.join(name))
        }
        (None, Some(private), Some(public)) => (private, public),
        _ => return Err(Error::new(Reason::NoPlace, "name a folder, or --private and --public")),
    };
    let key = PrivateKey::generate()?;
    key.save(&private, &public, format)?;
    let mut text = String::new();
    say!(text, "key id       {}", key.id());
    say!(text, "private key  {} (never put it on a device, or into a backup that others can read)", private.display());
    say!(text, "public key   {} (for devices: pubkey= in update.conf)", public.display());
    Answer::new(text, &answer::NewKey { key_id: key.id().to_string(), private_key: private, public_key: public })
}

fn keys(files: &[PathBuf]) -> Result<Vec<PrivateKey>> {
    files.iter().map(|file| PrivateKey::load(file)).collect()
}

fn extras(args: ExtrasArgs) -> Result<Extras> {
    let line = |line: Option<String>| line.map(|line| line.parse()).transpose();
    Ok(Extras {
        kernel_args: line(args.kernel_args)?,
        amd64_kernel_args: line(args.amd64_kernel_args)?,
        arm64_kernel_args: line(args.arm64_kernel_args)?,
        arm64_dtb: args.arm64_dtb,
        requires: args.requires.map(|words| crate::extras::requires(&words)).transpose()?.unwrap_or_default(),
        agent_settings: None,
    })
}

fn publish(args: Publish) -> Result<Answer> {
    let keys = keys(&args.key)?;
    let metadata = Metadata {
        version: args.version,
        channel: args.channel,
        release_date: date::release_date(args.release_date.as_deref())?,
        supported_until: args.supported_until,
        min_compatible_version: args.min_compatible_version,
        data_layout: args.data_layout,
        release_notes: args.release_notes.map(crate::notes).transpose()?,
        security_epoch: args.security_epoch,
        board: args.board,
        revoked_keys: args.revoke_key.iter().map(|key| crate::key::fingerprint(key)).collect::<Result<_>>()?,
        rollout: args.rollout,
        extras: extras(args.extras)?,
    };
    let images: Vec<Images> = [(Architecture::Amd64, args.amd64), (Architecture::Arm64, args.arm64)]
        .into_iter()
        .filter_map(|(architecture, files)| {
            let [kernel, initramfs] = files?.try_into().ok()?;
            Some(Images { architecture, kernel, initramfs })
        })
        .collect();
    let (unchecked_kernel, replace, dry_run) = (args.unsafe_unchecked_kernel, args.replace, args.dry_run);
    let mut text = String::new();
    if let Some(folder) = &args.http {
        let (delta_from, access) = (args.delta_from, args.network.into());
        let options = http::Options { url: args.url, unchecked_kernel, replace, dry_run, delta_from, access };
        let manifests = http::publish(folder, &metadata, &images, &keys, &options)?;
        for (architecture, digest) in &manifests {
            say!(text, "{architecture}      {digest} {}/{architecture}/latest.json", folder.display());
        }
        let (folder, manifests) = (Some(folder.clone()), by_architecture(&manifests));
        return Answer::new(text, &answer::Published { reference: None, index: None, folder, dry_run, manifests });
    }
    let Some(reference) = args.reference else {
        return Err(Error::new(Reason::NoPlace, "name a reference, or --http"));
    };
    let access = Access { no_fallback_tag: args.no_fallback_tag, ..args.network.into() };
    let (also_tags, delta_from) = (args.also_tag, args.delta_from);
    let sboms = args.sbom.iter().map(|file| Attachment::sbom(file));
    let attachments = sboms.chain(args.provenance.iter().map(|file| Attachment::provenance(file)));
    let attachments = attachments.collect::<Result<_>>()?;
    let options = Options { access, unchecked_kernel, also_tags, replace, dry_run, delta_from, attachments };
    let published = crate::release(&reference, &metadata, &images, &keys, &options)?;
    say!(text, "{}  {}", if dry_run { "would be " } else { "published" }, published.reference);
    say!(text, "index      {}", published.index);
    for (architecture, digest) in &published.manifests {
        say!(text, "{architecture}      {digest}");
    }
    let manifests = by_architecture(&published.manifests);
    let (reference, index) = (Some(published.reference), Some(published.index));
    Answer::new(text, &answer::Published { reference, index, folder: None, dry_run, manifests })
}

fn sign(args: Sign) -> Result<Answer> {
    let access = Access { no_fallback_tag: args.no_fallback_tag, ..args.network.into() };
    let signed = crate::sign::sign(&args.reference, &keys(&args.key)?, &access)?;
    let mut text = String::new();
    for (architecture, digest) in &signed {
        say!(text, "signed {architecture} {digest}");
    }
    Answer::new(text, &answer::Signed { signed: by_architecture(&signed) })
}

fn no_place() -> Error {
    Error::new(Reason::NoPlace, "name a reference, or --http")
}

fn payload(args: Payload) -> Result<Answer> {
    let payloads = match (&args.reference, &args.http) {
        (Some(reference), None) => crate::sign::payload(reference, &args.output, &args.network.into())?,
        (None, Some(folder)) => http::payload(folder, &args.output)?,
        _ => return Err(no_place()),
    };
    let (mut text, mut all) = (String::new(), vec![]);
    for crate::sign::Payload { release, digest, file } in payloads {
        say!(text, "{}      {digest} {}", release.architecture, file.display());
        for (name, image) in [("kernel", release.kernel), ("initramfs", release.initramfs)] {
            say!(text, "  {name:<9} {}", image.digest);
        }
        let (architecture, kernel) = (release.architecture.to_string(), release.kernel.digest);
        all.push(answer::OnePayload { architecture, digest, file, kernel, initramfs: release.initramfs.digest });
    }
    Answer::new(text, &answer::Payloads { payloads: all })
}

fn attach(args: Attach) -> Result<Answer> {
    let keys = KeySet::load(&args.pubkey)?;
    let attached = match (&args.reference, &args.http) {
        (Some(reference), None) => {
            let access = Access { no_fallback_tag: args.no_fallback_tag, ..args.network.into() };
            crate::sign::attach_files(reference, &args.signature, &keys, &access)?
        }
        (None, Some(folder)) => http::attach_files(folder, &args.signature, &keys)?,
        _ => return Err(no_place()),
    };
    let (mut text, mut all) = (String::new(), vec![]);
    for (architecture, digest, id) in attached {
        say!(text, "signed {architecture} {digest} by {id}");
        let architecture = architecture.to_string();
        all.push(answer::OneSignature { architecture, digest, key_id: id.to_string() });
    }
    Answer::new(text, &answer::Attached { signatures: all })
}

fn verify(args: Verify) -> Result<Answer> {
    let access: Access = args.network.into();
    let mut over = Overrides::default();
    over.bundle = args.bundle;
    over.set("server", args.from);
    over.set("tag", args.tag);
    over.set("channel", args.channel);
    over.set("board", args.board);
    over.set("pubkey", Some(utf8(&args.pubkey)?));
    over.set("signature_threshold", args.threshold);
    over.set("freshness_pubkey", args.freshness_pubkey);
    over.set("require_fresh", args.require_fresh.then_some("yes"));
    over.set("registry_ca", access.registry_ca.as_deref().map(utf8).transpose()?);
    if let Some(files) = &access.client_certificate {
        over.set("registry_cert", Some(utf8(&files.certificate)?));
        over.set("registry_key", Some(utf8(&files.key)?));
    }
    over.set("plain_http", (!access.plain_http.is_empty()).then(|| access.plain_http.join(" ")));
    let config = Config::resolve(&Conf::default(), &over)?;
    let (architecture, now) = (args.architecture, chrono::Utc::now());
    let (mut text, mut all) = (String::new(), vec![]);
    for release in crate::verify::verify(&config, &access, architecture, !args.metadata_only, now)? {
        say!(text, "{}", release.architecture);
        say!(text, "  digest     {}", release.digest);
        say!(text, "  version    {}", release.version);
        for key in &release.keys {
            say!(text, "  signed by  {key}");
        }
        if let Some(freshness) = &release.freshness {
            say!(text, "  freshness  {freshness}");
        }
        match release.bytes {
            Some(bytes) => say!(text, "  images     {bytes} bytes, as signed"),
            None => say!(text, "  images     not fetched"),
        }
        if let Some(bytes) = release.tree_bytes {
            say!(text, "  devicetree {bytes} bytes, as signed");
        }
        all.push(answer::OneRelease {
            architecture: release.architecture.to_string(),
            digest: release.digest,
            version: release.version.to_string(),
            signed_by: words(&release.keys),
            freshness: release.freshness,
            image_bytes: release.bytes,
            devicetree_bytes: release.tree_bytes,
        });
    }
    Answer::new(text, &answer::Verified { releases: all })
}

/// Values as a list of texts.
fn words<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A path as text of a setting.
fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::new(Reason::Usage, format!("{} is not UTF-8", path.display())).remedy("Rename the file."))
}

fn freshness(args: Freshness) -> Result<Answer> {
    let keys = keys(&args.key)?;
    let place = match (args.reference, args.http) {
        (Some(reference), None) => Place::Registry(reference, args.network.into()),
        (None, Some(folder)) => Place::Tree(folder),
        _ => return Err(no_place()),
    };
    let (statement, by) = match (&args.statement, &args.pubkey) {
        (Some(file), Some(pubkey)) => place.attach(file, &args.signature, &KeySet::load(pubkey)?)?,
        _ => {
            let terms = Terms { days: args.days, serial: args.serial };
            let statement = place.statement(&terms, chrono::Utc::now())?;
            match &args.output {
                Some(file) => crate::freshness::write(&statement, file)?,
                None => place.publish(&statement, &keys)?,
            }
            (statement, keys.iter().map(PrivateKey::id).collect())
        }
    };
    let not_after = statement.not_after.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let mut text = String::new();
    say!(text, "channel    {}", text::escape(&statement.channel));
    say!(text, "serial     {}", statement.serial);
    say!(text, "not after  {not_after}");
    for (architecture, digest) in &statement.digests {
        say!(text, "{architecture}      {digest}");
    }
    for id in &by {
        say!(text, "signed by  {id}");
    }
    let (channel, serial, digests) = (statement.channel, statement.serial, statement.digests);
    Answer::new(text, &answer::Freshness { channel, serial, not_after, digests, signed_by: words(&by) })
}

fn inspect(args: Inspect) -> Result<Answer> {
    let keys = args.pubkey.as_deref().map(KeySet::load).transpose()?;
    let mut found = crate::inspect::inspect(&args.reference, keys.as_ref(), &args.network.into())?;
    let failure = found.trusted().err();
    found.error = failure.as_ref().map(Error::report);
    Ok(Answer::new(found.to_string(), &found)?.failing(failure))
}

fn list(args: List) -> Result<Answer> {
    let keys = args.pubkey.as_deref().map(KeySet::load).transpose()?;
    let found = crate::list::list(&args.reference, keys.as_ref(), &args.network.into())?;
    Answer::new(found.to_string(), &found)
}

fn receipts(args: &Receipts) -> Result<Answer> {
    let mut table = Table::read(&args.dir, &args.devices)?;
    let failure = table.whole().err();
    table.error = failure.as_ref().map(Error::report);
    let text = if args.csv { table.csv() } else { table.to_string() };
    Ok(Answer::new(text, &table)?.failing(failure))
}

fn tag(args: Tag) -> Result<Answer> {
    let keys = KeySet::load(&args.pubkey)?.needing(args.threshold.max(1), &BTreeSet::new())?;
    let digest = crate::retag(&args.reference, &args.tag, &keys, &args.network.into())?;
    let mut text = String::new();
    for tag in &args.tag {
        say!(text, "{tag} is {digest}");
    }
    Answer::new(text, &answer::Tagged { digest, tags: args.tag })
}

fn bundle(args: Bundle) -> Result<Answer> {
    let bundled = crate::bundle::bundle(&args.reference, &args.file, args.architecture, &args.network.into())?;
    let mut text = String::new();
    for (architecture, digest) in &bundled {
        say!(text, "{architecture}      {digest} {}", args.file.display());
    }
    Answer::new(text, &answer::Bundled { file: args.file, manifests: by_architecture(&bundled) })
}

fn copy(args: Copy) -> Result<Answer> {
    let access = Access { no_fallback_tag: args.no_fallback_tag, ..args.network.into() };
    let copied = match &args.places[..] {
        [folder, reference] if crate::copy::is_layout(Path::new(folder)) => {
            crate::copy::push(Path::new(folder), reference, &access)?
        }
        [references @ .., folder] => crate::copy::fill(references, Path::new(folder), &access)?,
        [] => return Err(Error::new(Reason::NoPlace, "name a reference and a folder")),
    };
    let target = args.places.last().map(String::as_str).unwrap_or_default();
    let crate::copy::Copied { releases, files, present } = copied;
    let mut text = String::new();
    for (name, digest) in &releases {
        say!(text, "copied     {} {digest}", text::escape(name));
    }
    say!(text, "files      {files} to {target}, {present} of them were there");
    let (target, releases) = (target.to_owned(), releases.into_iter().collect());
    Answer::new(text, &answer::Copied { target, releases, files, present })
}

fn repack(args: &Repack) -> Result<Answer> {
    let repacked = crate::repack::repack(&args.input, &args.output)?;
    let mut text = String::new();
    say!(text, "repacked   {}: {} bytes in {} pieces", args.output.display(), repacked.size, repacked.pieces);
    let (size, pieces) = (repacked.size, repacked.pieces);
    Answer::new(text, &answer::Repacked { file: args.output.clone(), size, pieces })
}

fn factory(args: Factory) -> Result<Answer> {
    let keys = args.pubkey.as_deref().map(KeySet::load).transpose()?;
    let keys = keys.map(|keys| keys.needing(args.threshold as usize, &BTreeSet::new())).transpose()?;
    let content = match (args.reference, args.bundle, args.unsafe_unpublished.map(<[PathBuf; 2]>::try_from)) {
        (Some(reference), None, None) => Content::Published(reference),
        (None, Some(file), None) => Content::Bundle(file),
        (None, None, Some(Ok(images))) => Content::Unpublished(images),
        _ => return Err(Error::new(Reason::NoPlace, "name a reference, or --bundle")),
    };
    let device = factory::Device {
        architecture: args.architecture,
        boot: args.boot,
        kernel_args: args.kernel_args,
        efi_mib: args.efi_mib,
        slot_mib: args.slot_mib,
        data_mib: args.data_mib,
    };
    let made = factory::factory(&args.dir, &content, keys.as_ref(), &device, &args.network.into())?;
    let mut text = String::new();
    let script = args.dir.join("make-disk.sh");
    if let Some(release) = &made.release {
        say!(text, "slot A     {} {}", release.version, release.digest);
    }
    say!(text, "slots      {} MiB each", made.slot_mib);
    say!(text, "next       {} DISK.img", script.display());
    let version = made.release.as_ref().map(|release| release.version.to_string());
    let digest = made.release.map(|release| release.digest);
    Answer::new(text, &answer::Factory { folder: args.dir, version, digest, slot_mib: made.slot_mib, next: script })
}
