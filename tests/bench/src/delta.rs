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

/// The promises about whole OS images, in percent of the initramfs: update, row and limit.
const BARS: [(&str, &str, f64); 5] =
    [("v2s", PATCHES, 2.0), ("v2k", PATCHES, 7.0), ("v2s", PIECES, 15.0), ("v2k", PIECES, 51.0), ("v2k", BEHIND, 25.0)];
const PATCHES: &str = "kubesolo-update, patches";
const PIECES: &str = "kubesolo-update, pieces";
const BEHIND: &str = "kubesolo-update, patches of the release between";
/// Requests of an update by pieces, beside those for documents, index and kernel.
const MOST_REQUESTS: u64 = 256 + 16;
/// Processor seconds of an update by patches, for each update.
const MOST_CPU: [f64; 2] = [3.0, 10.0];
/// Peak memory of the agent, in KiB: its promise for every update.
const MOST_MEMORY: u64 = 12 * 1024;

/// Bytes written for each byte of the images: hash files, manifest, state and the filesystem's own are the rest.
const MOST_WRITTEN: f64 = 1.01;

/// One row of the table.
struct Row {
    update: &'static str,
    /// The new image.
    new: &'static str,
    tool: &'static str,
    /// Bytes received, with all of HTTP, and requests sent.
    fetched: (u64, u64),
    cost: Cost,
    /// Bytes of the new initramfs.
    image: u64,
    /// Bytes of the kernel, where the tool installs it too.
    kernel: u64,
}

/// Everything that is measured in.
struct Field {
    place: PathBuf,
    registry: Relay,
    web: Relay,
    /// The registry by TLS, and its authority.
    tls: (Relay, PathBuf),
    /// The registry itself.
    host: String,
}

/// The way to a release.
#[derive(Clone, Copy)]
struct Way<'a> {
    tag: &'a str,
    /// The setting.
    delta: &'a str,
    tls: bool,
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
    let (tls, authority) = servers::Nginx::tls(registry.port, &place.join("nginx-tls"))?;
    let field = Field {
        host: registry.host(),
        registry: Relay::open(registry.port)?,
        web: Relay::open(web.port)?,
        tls: (Relay::open(tls.port)?, authority),
        place,
    };
    field.publish()?;
    field.fill()?;
    let mut rows = vec![];
    for (update, new) in UPDATES {
        let [image, vmlinuz] = [field.file(new, "os.gz"), field.file("v1", "vmlinuz")].map(fs::metadata);
        let [image, vmlinuz] = [image?.len(), vmlinuz?.len()];
        let mut row = |tool, done: Result<((u64, u64), Cost)>| -> Result<()> {
            let (fetched, cost) = done?;
            let kernel = if is_ours(tool) { vmlinuz } else { 0 };
            let row = Row { update, new, tool, fetched, cost, image, kernel };
            println!("{update}, {tool}: {:.2} %, {} requests, {} KiB of memory", row.percent(), fetched.1, cost.peak);
            rows.push(row);
            Ok(())
        };
        let by_pieces = format!("{new}-pieces");
        let way = |tag, delta| Way { tag, delta, tls: false };
        row(PATCHES, field.agent(new, way(new, "yes")))?;
        row("kubesolo-update, patches, by TLS", field.agent(new, Way { tls: true, ..way(new, "yes") }))?;
        row(PIECES, field.agent(new, way(&by_pieces, "yes")))?;
        if new == "v2k" {
            row(BEHIND, field.agent(new, way("v2k-behind", "yes")))?;
        }
        row("kubesolo-update, whole image", field.agent(new, way(new, "no")))?;
        let others: [(&str, &str, Other); 4] = [
            ("casync", "casync, of the unpacked archive", Field::casync),
            ("rauc", "RAUC by casync, of the unpacked archive", Field::rauc),
            ("zckdl", "zchunk (the deltas of SWUpdate), of the unpacked archive", Field::zchunk),
            ("zsync", "zsync", Field::zsync),
        ];
        for (program, name, other) in others {
            match tool(program) {
                Ok(_) if program == "rauc" && !nix::unistd::geteuid().is_root() => {
                    println!("not measured: rauc needs root, for loop devices");
                }
                Ok(_) => row(name, other(&field, new))?,
                Err(e) => println!("not measured: {e}"),
            }
        }
    }
    let (table, picture) = (table(&rows), picture(&rows));
    println!("\n{table}");
    fs::write(release::place().join("performance-delta.svg"), &picture)?;
    if docs {
        write_page(&table)?;
        fs::write(root().join("docs/performance-delta.svg"), picture)?;
    }
    if size == "full" { check(&rows) } else { Ok(()) }
}

fn is_ours(tool: &str) -> bool {
    tool.starts_with("kubesolo-update")
}

/// Another tool, which ends with the new image.
type Other = fn(&Field, &str) -> Result<((u64, u64), Cost)>;

impl Row {
    fn percent(&self) -> f64 {
        self.fetched.0 as f64 * 100.0 / self.image as f64
    }

    /// Bytes written, for each byte that is installed.
    fn written(&self) -> f64 {
        self.cost.written as f64 / (self.image + self.kernel) as f64
    }

    /// The promise about its bytes, in percent.
    fn bar(&self) -> Option<f64> {
        BARS.iter().find(|(new, tool, _)| (*new, *tool) == (self.new, self.tool)).map(|(_, _, bar)| *bar)
    }
}

/// Compares with the promises.
fn check(rows: &[Row]) -> Result<()> {
    let mut missed = vec![];
    for row in rows.iter().filter(|row| is_ours(row.tool)) {
        let Row { update, tool, .. } = row;
        let mut miss = |what: String| missed.push(format!("{update}, {tool}: {what}"));
        if let Some(bar) = row.bar().filter(|bar| row.percent() > *bar) {
            miss(format!("{:.2} % fetched, and not at most {bar} %", row.percent()));
        }
        if row.fetched.1 > MOST_REQUESTS {
            miss(format!("{} requests, and not at most {MOST_REQUESTS}", row.fetched.1));
        }
        let most = MOST_CPU[usize::from(row.new == UPDATES[1].1)];
        if *tool == PATCHES && row.cost.cpu > most {
            miss(format!("{:.2} s of CPU, and not at most {most}", row.cost.cpu));
        }
        if row.cost.peak > MOST_MEMORY {
            miss(format!("{} KiB of memory, and not at most {MOST_MEMORY}", row.cost.peak));
        }
        if row.written() > MOST_WRITTEN {
            miss(format!("{:.3} times the image written, and not at most {MOST_WRITTEN}", row.written()));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n").into()) }
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
    fn apply(&self, way: Way<'_>) -> Result<Vec<String>> {
        let Way { tag, delta, tls } = way;
        let run = self.place.join("run");
        let path = |name: &str| run.join(name).display().to_string();
        let registry = format!("127.0.0.1:{}", if tls { self.tls.0.port } else { self.registry.port });
        let trusted = match tls {
            true => format!("registry_ca={}", self.tls.1.display()),
            false => format!("plain_http={registry}"),
        };
        let env = format!("grub:{}", path("grubenv"));
        let (conf, key) = (path("update.conf"), release::place().join("keys/public.pem"));
        fs::write(&conf, format!("delta={delta}\npubkey={}\n{trusted}\n", key.display()))?;
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
        let relays = [&self.registry, &self.web, &self.tls.0];
        relays.iter().for_each(|relay| _ = relay.take());
        let cost = measure::below(&command, &log)?;
        let all = relays.iter().map(|relay| relay.take());
        Ok((all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)), cost))
    }

    /// A slot with the first release, which is the booted one of all others.
    fn fill(&self) -> Result<()> {
        let old = self.place.join("slot-v1");
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        self.measured(&|| self.apply(Way { tag: "v1", delta: "yes", tls: false }))?;
        copy_folder(&self.place.join("run/slot"), &old)
    }

    fn agent(&self, image: &str, way: Way<'_>) -> Result<((u64, u64), Cost)> {
        let done = self.measured(&|| self.apply(way))?;
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

    /// RAUC fetches a casync bundle of the unpacked archive, into a loop device for its slot.
    fn rauc(&self, new: &str) -> Result<((u64, u64), Cost)> {
        let keys = release::place().join("keys");
        for image in ["v1", new] {
            let (packed, archive) = (self.file(image, "os.gz"), self.file(image, "os.cpio"));
            run(Command::new("sh").args(["-euc", "zcat \"$1\" >\"$2\"", "sh"]).args([&packed, &archive]))?;
        }
        let package = ["-euc", include_str!("package-rauc.sh"), "package"];
        let store = self.place.join("rauc.castr");
        run(Command::new("sh").args(package).args([&self.file(new, ""), &store, &keys]))?;
        let url = |name: &str| format!("http://127.0.0.1:{}/{name}", self.web.port);
        let (old, archive) = (self.file("v1", "os.cpio"), self.file(new, "os.cpio"));
        let slot = self.place.join("run/slot/os.img");
        let size = fs::metadata(&archive)?.len();
        let command = || -> Result<Vec<String>> {
            // As large as it must be, and of whole pages.
            fs::File::create(&slot)?.set_len(size.next_multiple_of(4096))?;
            let words = ["sh", "-euc", include_str!("rauc.sh"), "rauc"].map(str::to_owned).into_iter();
            let urls = [url(&format!("{new}/os.raucb")), url("rauc.castr")];
            let paths = [&old, &slot, &self.place.join("run/stage"), &keys.join("rauc.pem")];
            Ok(words.chain(urls).chain(paths.map(|path| path.display().to_string())).collect())
        };
        let done = self.measured(&command)?;
        fs::OpenOptions::new().write(true).open(&slot)?.set_len(size)?;
        same(&slot, &archive)?;
        Ok(done)
    }

    /// zchunk cuts the unpacked archive, too, and compresses each chunk. SWUpdate takes its format for deltas.
    fn zchunk(&self, new: &str) -> Result<((u64, u64), Cost)> {
        for image in ["v1", new] {
            let (packed, archive) = (self.file(image, "os.gz"), self.file(image, "os.cpio"));
            run(Command::new("sh").args(["-euc", "zcat \"$1\" >\"$2\"", "sh"]).args([&packed, &archive]))?;
            run(Command::new(tool("zck")?).arg("-o").arg(self.file(image, "os.zck")).arg(&archive))?;
        }
        let url = format!("http://127.0.0.1:{}/{new}/os.zck", self.web.port);
        // It writes into its working directory.
        let script = "cd \"$1\" && exec \"$2\" -q -s \"$3\" \"$4\"";
        let slot = self.place.join("run/slot");
        let old = self.file("v1", "os.zck");
        let words = ["sh", "-euc", script, "sh"].map(str::to_owned).into_iter();
        let paths = [&slot, &tool("zckdl")?, &old].map(|path| path.display().to_string());
        let words: Vec<_> = words.chain(paths).chain([url]).collect();
        let done = self.measured(&|| Ok(words.clone()))?;
        same(&slot.join("os.zck"), &self.file(new, "os.zck"))?;
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
        "| update | tool | fetched, of the initramfs | promised, of whole OS images | requests | written | CPU s | peak MiB |\n\
                    |---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in rows {
        let Row { update, tool, fetched, cost, .. } = row;
        let (cpu, peak) = (cost.cpu, cost.peak as f64 / 1024.0);
        let bar = row.bar().map_or(String::new(), |bar| format!("at most {bar} %"));
        let percent = row.percent();
        // TLS hides them.
        let requests = if fetched.1 == 0 { String::new() } else { fetched.1.to_string() };
        let written = row.written();
        let _ = writeln!(
            text,
            "| {update} | {tool} | {percent:.2} % | {bar} | {requests} | {written:.3} | {cpu:.2} | {peak:.1} |"
        );
    }
    text
}

const WIDTH: f64 = 960.0;
const NAMES: f64 = 380.0;
const LINE: f64 = 22.0;

/// Bars of the bytes fetched, one group for each update.
fn picture(rows: &[Row]) -> String {
    let height = 40.0 + 30.0 * UPDATES.len() as f64 + LINE * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Bytes fetched for an update, in percent of the initramfs (shorter is better)</text>\n"
    );
    let largest = rows.iter().map(Row::percent).fold(0.0, f64::max);
    let mut top = 30.0;
    for (update, new) in UPDATES {
        let _ = writeln!(svg, "<text x=\"10\" y=\"{:.0}\" fill=\"#555\">{update}</text>", top + 16.0);
        top += 26.0;
        for row in rows.iter().filter(|row| row.new == new) {
            let wide = row.percent() / largest * (WIDTH - NAMES - 80.0);
            let color = if is_ours(row.tool) { "#2166ac" } else { "#d6803c" };
            let _ = writeln!(
                svg,
                "<text x=\"20\" y=\"{:.0}\">{}</text>\
                 <rect x=\"{NAMES}\" y=\"{top}\" width=\"{wide:.1}\" height=\"16\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{:.2} %</text>",
                top + 13.0,
                row.tool,
                NAMES + wide + 4.0,
                top + 13.0,
                row.percent()
            );
            top += LINE;
        }
    }
    svg + "</svg>\n"
}

/// Replaces the table in docs/performance.md.
fn write_page(table: &str) -> Result<()> {
    let page = root().join("docs/performance.md");
    let text = fs::read_to_string(&page)?;
    let (before, rest) = text.split_once(MARKS[0]).ok_or("docs/performance.md has no place for the table of deltas")?;
    let (_, after) = rest.split_once(MARKS[1]).ok_or("docs/performance.md has no end of the table of deltas")?;
    let picture = "![Bytes fetched for an update beside other tools](performance-delta.svg)\n\n";
    Ok(fs::write(page, [before, MARKS[0], "\n", picture, table, "\n", MARKS[1], after].concat())?)
}
