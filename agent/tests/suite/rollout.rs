//! A fleet of 100,000 devices takes a release in waves: what the registry sees of it, with the product's own draw and plan,
//! and with the requests that the real program makes. The figures in `docs/operating.md` and `docs/rollout.svg` come from
//! here; `make rollout DOCS=1` writes them.

use crate::{cli_support, common};

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use cli_support::{Device, publish_as};
use common::fault::Fault;
use common::registry::Registry;
use kubesolo_release::Metadata;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::schedule::rollout::{Place, Rollout};

const DEVICES: usize = 100_000;
/// Each device asks once an hour, at a minute of its own, as the timer does.
const INTERVAL: usize = 60;
/// The length of the simulation, in minutes.
const LENGTH: usize = 96 * 60;
/// An image as of the benchmark: kernel and compressed initramfs.
const IMAGE_MIB: f64 = 135.6;

/// Requests of one run, which the test below counts.
const NOTHING_NEW: u64 = 1;
const FIRST_HELD: u64 = 7;
const HELD: u64 = 1;
const TAKEN: u64 = 9;

/// Relays each request to the registry, and counts it.
fn relay(registry: &Registry) -> Fault {
    let behind = registry.address.clone();
    Fault::start(move |request, out| {
        let mut stream = TcpStream::connect(&behind).unwrap();
        let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", request.method, request.path);
        for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let _ = std::io::copy(&mut stream, out);
    })
}

#[test]
fn the_requests_of_a_run_are_those_of_the_simulation() {
    let registry = Registry::start();
    let release_date = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let metadata = Metadata::new("1.0.0".parse().unwrap(), "stable");
    let metadata = Metadata { release_date, rollout: Some("5%@0h,100%@72h".parse().unwrap()), ..metadata };
    publish_as(&registry, 1, metadata, "os:stable");
    let server = relay(&registry);
    let device = Device::new();
    let counted = |wariness: u8, code: i32| {
        let before = server.requests().len();
        device.write("conf", format!("wariness={wariness}\nauto=activate\n").as_bytes());
        device.from(&server, &["run"]).code(code);
        let requests = &server.requests()[before..];
        println!("{:#?}", requests.iter().map(|r| format!("{} {}", r.method, r.path)).collect::<Vec<_>>());
        requests.len() as u64
    };
    let first_held = counted(100, 75);
    let held = counted(100, 75);
    let taken = counted(0, 0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let nothing_new = counted(0, 0);
    assert_eq!((first_held, held, taken, nothing_new), (FIRST_HELD, HELD, TAKEN, NOTHING_NEW));
}

/// The events of each minute.
struct Run {
    requests: Vec<u64>,
    taken: Vec<u64>,
}

/// `spread`: over how many minutes the first questions of the fleet are spread, evenly and by chance.
fn simulate(waves: &str, spread: usize) -> Run {
    let start = DateTime::UNIX_EPOCH;
    let rollout = Rollout { start, waves: waves.parse().unwrap() };
    let shares: Vec<u8> = (0..LENGTH).map(|minute| rollout.share(start + TimeDelta::minutes(minute as i64))).collect();
    let release = Digest::of(waves.as_bytes());
    let mut run = Run { requests: vec![0; LENGTH], taken: vec![0; LENGTH] };
    for n in 0..DEVICES {
        let device = format!("{n:032x}");
        let chance = Digest::of(device.as_bytes()).0;
        let first = u32::from_be_bytes(chance[..4].try_into().unwrap()) as usize % spread;
        let place = Place::draw(&device, release);
        let (mut has_it, mut knows_it) = (false, false);
        for minute in (first..LENGTH).step_by(INTERVAL) {
            run.requests[minute] += if has_it {
                NOTHING_NEW
            } else if place.is_within(shares[minute]) {
                has_it = true;
                run.taken[minute] += 1;
                TAKEN
            } else if knows_it {
                HELD
            } else {
                knows_it = true;
                FIRST_HELD
            };
        }
    }
    run
}

impl Run {
    /// The share of the fleet that has it at the end of this minute, in percent.
    fn share(&self, minute: usize) -> f64 {
        self.taken[..=minute].iter().sum::<u64>() as f64 * 100.0 / DEVICES as f64
    }

    /// Hours until that share has it.
    fn reaches(&self, percent: f64) -> String {
        let minute = (0..LENGTH).find(|minute| self.share(*minute) >= percent);
        minute.map_or("never".into(), |minute| format!("{:.1} h", minute as f64 / 60.0))
    }

    fn most_requests(&self) -> f64 {
        *self.requests.iter().max().unwrap() as f64 / 60.0
    }

    /// Images that begin in the busiest minute, as a rate.
    fn most_gbit(&self) -> f64 {
        *self.taken.iter().max().unwrap() as f64 * IMAGE_MIB * 8.0 * 1.048_576 / 1000.0 / 60.0
    }
}

const WAVES: &str = "5%@0h,25%@24h,100%@72h";
const SLOW: &str = "1%@0h,5%@12h,15%@24h,30%@36h,50%@48h,75%@60h,100%@72h";

fn section(plans: &[(&str, &str, &Run)]) -> String {
    let mut out = String::from(
        "| plan | first requests spread over | 1 % updated after | 50 % | all | peak requests per second | peak image traffic |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (plan, spread, run) in plans {
        let _ = writeln!(
            out,
            "| {plan} | {spread} | {} | {} | {} | {:.0} | {:.1} Gbit/s |",
            run.reaches(1.0),
            run.reaches(50.0),
            run.reaches(99.999),
            run.most_requests(),
            run.most_gbit()
        );
    }
    let waves = plans[0].2;
    let at = |hours: usize| (waves.share(hours * 60) * DEVICES as f64 / 100.0).round();
    let _ = writeln!(
        out,
        "\nA return to the previous release stops `{WAVES}` at {:.0} devices after 12 h, at {:.0} devices after 48 h, and comes \
         too late after 73 h, when all {:.0} devices have the release.",
        at(12),
        at(48),
        at(73)
    );
    out
}

/// Two panels over one axis of hours: the share of the fleet, and the requests per second.
fn picture(waves: &Run, at_once: &Run) -> String {
    let (left, width, height) = (60.0, 640.0, 160.0);
    let x = |minute: usize| left + width * minute as f64 / LENGTH as f64;
    let top = waves.most_requests().max(at_once.most_requests()) * 1.05;
    let share = |run: &Run| {
        let points =
            (0..LENGTH).step_by(30).map(|m| format!("{:.0},{:.1}", x(m), 20.0 + height * (1.0 - run.share(m) / 100.0)));
        points.collect::<Vec<_>>().join(" ")
    };
    let requests = |run: &Run| {
        let points = (0..LENGTH).step_by(30).map(|m| {
            let rate = run.requests[m..m + 30].iter().sum::<u64>() as f64 / 30.0 / 60.0;
            format!("{:.0},{:.1}", x(m), 220.0 + height * (1.0 - rate / top))
        });
        points.collect::<Vec<_>>().join(" ")
    };
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 420\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"720\" height=\"420\" fill=\"white\"/>\n",
    );
    for (y, title) in [(20.0, "devices that have it, %"), (220.0, "requests per second")] {
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#888\"/>"
        );
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"{}\">{title}</text>", y - 6.0);
    }
    for hours in (0..=96).step_by(12) {
        let at = x(hours * 60);
        let _ = writeln!(svg, "<path d=\"M{at:.0} 20V180M{at:.0} 220V380\" stroke=\"#eee\"/>");
        let _ = writeln!(svg, "<text x=\"{at:.0}\" y=\"396\" text-anchor=\"middle\">{hours} h</text>");
    }
    for (y, label) in [(24.0, "100".into()), (184.0, "0".into()), (224.0, format!("{top:.0}")), (384.0, "0".to_owned())]
    {
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{label}</text>", left - 6.0);
    }
    for (run, colour, y, name) in [(at_once, "#c33", 412, "all at once"), (waves, "#36c", 412, WAVES)] {
        for points in [share(run), requests(run)] {
            let _ =
                writeln!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>");
        }
        let at = if colour == "#36c" { 420 } else { left as i32 };
        let _ = writeln!(svg, "<text x=\"{at}\" y=\"{y}\" fill=\"{colour}\">{name}</text>");
    }
    svg + "</svg>\n"
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

#[test]
fn the_figures_of_the_documentation_are_those_of_the_simulation() {
    let [waves, slow] = [WAVES, SLOW].map(|plan| simulate(plan, INTERVAL));
    let [at_once, together] = [INTERVAL, 1].map(|spread| simulate("100%@0h", spread));
    let table = section(&[
        (&format!("`{WAVES}`"), "1 h", &waves),
        (&format!("`{SLOW}`"), "1 h", &slow),
        ("all at once", "1 h", &at_once),
        ("all at once", "1 min: no delay in the timer", &together),
    ]);
    // The plan holds: never more than the share, and all of it one interval later.
    for (hours, least, most) in [(1, 4.8, 5.2), (23, 4.8, 5.2), (25, 24.5, 25.5), (71, 24.5, 25.5), (73, 100.0, 100.0)]
    {
        let share = waves.share(hours * 60);
        assert!((least..=most).contains(&share), "{share} % after {hours} h");
    }
    let (begin, end) = ("<!-- simulation -->\n", "<!-- end of simulation -->");
    let page = fs::read_to_string(docs("operating.md")).unwrap();
    let (before, rest) = page.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    for (name, content) in
        [("operating.md", format!("{before}{begin}{table}{end}{after}")), ("rollout.svg", picture(&waves, &at_once))]
    {
        if std::env::var_os("DOCS").is_some() {
            fs::write(docs(name), &content).unwrap();
        }
        assert!(
            fs::read_to_string(docs(name)).unwrap() == content,
            "docs/{name} is not up to date: make rollout DOCS=1"
        );
    }
}
