//! The cost of an update to a similar release, beside other tools that send differences.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_tests::registry::Registry;
use qemu_tests::{Result, root, run, tool};

use crate::measure::{self, Cost};
use crate::relay::Relay;
use crate::{release, servers};

/// The updates: their name in the table, and the new image.
const UPDATES: [(&str, &str); 2] = [("security updates", "v2s"), ("all kernel modules new", "v2k")];
const MARKS: [&str; 2] = ["<!-- made by: make bench-delta DOCS=1 -->\n", "<!-- end of deltas -->\n"];

/// One row of the table.
struct Row {
    update: &'static str,
    tool: &'static str,
    /// Bytes received, with all of HTTP, and requests sent.
    fetched: (u64, u64),
    cost: Cost,
    /// Bytes of the new initramfs.
    image: u64,
}

/// Everything that is measured in.
struct Field {
    place: PathBuf,
    registry: Relay,
    web: Relay,
    /// The registry itself.
    host: String,
}

/// Measures all of it once; with `docs`, puts the table into docs/performance.md.
///
/// # Errors
/// A tool fails, or leaves another image.
pub fn run_all(size: &str, docs: bool) -> Result<()> {
    let place = release::place().join(format!("delta-{size}"));
    fs::create_dir_all(&place)?;
    run(Command::new(root().join("build/scripts/delta-payload.sh")).arg(&place).arg(size))?;
    release::keys(&release::place().join("keys"))?;
    let registry = Registry::start(&place.join("registry"))?;
    let web = servers::Nginx::start(&place, &place.join("nginx"))?;
    let (host, registry_relay, web_relay) = (registry.host(), Relay::open(registry.port)?, Relay::open(web.port)?);
    let field = Field { place, registry: registry_relay, web: web_relay, host };
    field.publish()?;
    field.fill()?;
    let mut rows = vec![];
    for (update, new) in UPDATES {
        let image = fs::metadata(field.file(new, "os.gz"))?.len();
        let mut row = |tool, done: Result<((u64, u64), Cost)>| -> Result<()> {
            let (fetched, cost) = done?;
            println!("{update}, {tool}: {:.2} %", fetched.0 as f64 * 100.0 / image as f64);
            rows.push(Row { update, tool, fetched, cost, image });
            Ok(())
        };
        row("kubesolo-update, patches", field.agent(new, new, "yes"))?;
        row("kubesolo-update, pieces", field.agent(new, &format!("{new}-pieces"), "yes"))?;
        if new == "v2k" {
            row("kubesolo-update, patches of the release between", field.agent(new, "v2k-behind", "yes"))?;
        }
        row("kubesolo-update, whole image", field.agent(new, new, "no"))?;
        if tool("casync").is_ok() {
            row("casync, of the unpacked archive", field.casync(new))?;
        }
        if tool("zsync").is_ok() {
            row("zsync", field.zsync(new))?;
        }
    }
    let table = table(&rows);
    println!("\n{table}");
    if docs { write_page(&table) } else { Ok(()) }
}

impl Field {
    fn file(&self, image: &str, name: &str) -> PathBuf {
        self.place.join(image).join(name)
    }

    /// Repacks the images and publishes them, each tag once.
    fn publish(&self) -> Result<()> {
        let publisher = release::release_tool()?;
        for image in ["v1", "v2s", "v2k"] {
            let packed = self.file(image, "os.gz");
            if !packed.exists() {
                run(Command::new(&publisher).arg("repack").args([&self.file(image, "initramfs.gz"), &packed]))?;
            }
        }
        for (tag, image, version, from) in [
            ("v1", "v1", "1.0.0", ""),
            ("v2s", "v2s", "1.1.0", "v1"),
            ("v2s-pieces", "v2s", "1.1.0", ""),
            ("v2k", "v2k", "1.2.0", "v1"),
            ("v2k-pieces", "v2k", "1.2.0", ""),
            ("v2k-behind", "v2k", "1.2.0", "v2s"),
        ] {
            let mut command = Command::new(&publisher);
            command.args(["publish", &format!("{}/os:{tag}", self.host), "--plain-http", &self.host, "--replace"]);
            command.args(["--version", version, "--channel", "stable", "--release-date", "2026-01-01T00:00:00Z"]);
            command.arg("--key").arg(release::place().join("keys/private.pem"));
            // The same kernel in each: other tools fetch the initramfs alone.
            command.arg("--amd64").args([self.file("v1", "vmlinuz"), self.file(image, "os.gz")]);
            if !from.is_empty() {
                command.args(["--delta-from", &format!("{}/os:{from}", self.host)]);
            }
            run(&mut command)?;
        }
        Ok(())
    }

    /// The agent's command that installs a tag from slot A into slot B.
    fn apply(&self, tag: &str, delta: &str) -> Result<Vec<String>> {
        let run = self.place.join("run");
        let path = |name: &str| run.join(name).display().to_string();
        let registry = format!("127.0.0.1:{}", self.registry.port);
        let env = format!("grub:{}", path("grubenv"));
        let (conf, key) = (path("update.conf"), release::place().join("keys/public.pem"));
        fs::write(&conf, format!("delta={delta}\npubkey={}\nplain_http={registry}\n", key.display()))?;
        let words = [
            &release::agent()?.display().to_string(),
            "-vv",
            "--conf",
            &conf,
            "--state",
            &path("state.json"),
            "--slot-a",
            &path("other"),
            "--slot-b",
            &path("slot"),
            "--bootenv",
            &env,
            "--booted",
            "A",
            "apply",
            "--registry",
            &format!("{registry}/os:{tag}"),
        ];
        Ok(words.map(str::to_owned).into())
    }

    /// A command with an empty slot, and with what it fetched.
    fn measured(&self, command: &dyn Fn() -> Result<Vec<String>>) -> Result<((u64, u64), Cost)> {
        let run = self.place.join("run");
        crate::clean(&run)?;
        let old = self.place.join("slot-v1");
        if old.exists() {
            fs::remove_dir(run.join("other"))?;
            copy_folder(&old, &run.join("other"))?;
        }
        let (command, log) = (command()?, self.place.join("run.log"));
        [&self.registry, &self.web].iter().for_each(|relay| _ = relay.take());
        let cost = measure::below(&command, &log)?;
        let both = [self.registry.take(), self.web.take()];
        Ok(((both[0].0 + both[1].0, both[0].1 + both[1].1), cost))
    }

    /// A slot with the first release, which is the booted one of all others.
    fn fill(&self) -> Result<()> {
        let old = self.place.join("slot-v1");
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        self.measured(&|| self.apply("v1", "yes"))?;
        copy_folder(&self.place.join("run/slot"), &old)
    }

    fn agent(&self, image: &str, tag: &str, delta: &str) -> Result<((u64, u64), Cost)> {
        let done = self.measured(&|| self.apply(tag, delta))?;
        let written = self.place.join("run/slot/kubesolo-os.gz");
        same(&written, &self.file(image, "os.gz"))?;
        Ok(done)
    }

    /// casync cuts the unpacked archive, as its compressed form has no chunks in common with another one. Its store has
    /// compressed chunks.
    fn casync(&self, new: &str) -> Result<((u64, u64), Cost)> {
        let [old, archive] = ["v1", new].map(|image| self.file(image, "os.cpio"));
        for (image, archive) in [("v1", &old), (new, &archive)] {
            let packed = self.file(image, "os.gz");
            run(Command::new("sh").args(["-euc", "zcat \"$1\" >\"$2\"", "sh"]).args([&packed, archive]))?;
        }
        let (index, store) = (self.file(new, "os.caibx"), self.place.join("store.castr"));
        run(Command::new(tool("casync")?).arg("make").arg("--store").arg(&store).args([&index, &archive]))?;
        let url = |name: &str| format!("http://127.0.0.1:{}/{name}", self.web.port);
        let written = self.place.join("run/slot/os.cpio");
        let words = [
            tool("casync")?.display().to_string(),
            "extract".into(),
            format!("--store={}", url("store.castr")),
            format!("--seed={}", old.display()),
            url(&format!("{new}/os.caibx")),
            written.display().to_string(),
        ];
        let done = self.measured(&|| Ok(words.to_vec()))?;
        same(&written, &archive)?;
        Ok(done)
    }

    /// zsync compares the repacked files as they are.
    fn zsync(&self, new: &str) -> Result<((u64, u64), Cost)> {
        let control = self.file(new, "os.gz.zsync");
        run(Command::new(tool("zsyncmake")?)
            .args(["-Z", "-u", "os.gz", "-o"])
            .args([&control, &self.file(new, "os.gz")]))?;
        let written = self.place.join("run/slot/os.gz");
        let words = [
            tool("zsync")?.display().to_string(),
            "-i".into(),
            self.file("v1", "os.gz").display().to_string(),
            "-o".into(),
            written.display().to_string(),
            format!("http://127.0.0.1:{}/{new}/os.gz.zsync", self.web.port),
        ];
        let done = self.measured(&|| Ok(words.to_vec()))?;
        same(&written, &self.file(new, "os.gz"))?;
        Ok(done)
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").args([from, to])).map(drop)
}

fn same(written: &Path, expected: &Path) -> Result<()> {
    if release::sha256(written)? == release::sha256(expected)? {
        return Ok(());
    }
    Err(format!("{} differs from {}", written.display(), expected.display()).into())
}

fn table(rows: &[Row]) -> String {
    let mut text =
        "| update | tool | fetched, of the initramfs | requests | CPU s | peak MiB |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for Row { update, tool, fetched, cost, image } in rows {
        let percent = fetched.0 as f64 * 100.0 / *image as f64;
        let (cpu, peak) = (cost.cpu, cost.peak as f64 / 1024.0);
        let _ = writeln!(text, "| {update} | {tool} | {percent:.2} % | {} | {cpu:.2} | {peak:.1} |", fetched.1);
    }
    text
}

/// Replaces the table in docs/performance.md.
fn write_page(table: &str) -> Result<()> {
    let page = root().join("docs/performance.md");
    let text = fs::read_to_string(&page)?;
    let (before, rest) = text.split_once(MARKS[0]).ok_or("docs/performance.md has no place for the table of deltas")?;
    let (_, after) = rest.split_once(MARKS[1]).ok_or("docs/performance.md has no end of the table of deltas")?;
    Ok(fs::write(page, [before, MARKS[0], "\n", table, "\n", MARKS[1], after].concat())?)
}
