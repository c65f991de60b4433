//! Tables and the picture of docs/performance.md.

use std::fmt::Write;
use std::fs;

use qemu_tests::{Result, root};

use crate::contestants::Contestant;
use crate::measure::Cost;
use crate::release;

/// All that was measured with one size.
pub struct Field {
    /// Size of the release in MiB, roughly.
    pub mib: u64,
    /// Size of both images in bytes.
    pub bytes: u64,
    /// The contestants.
    pub rows: Vec<Row>,
}

/// All that was measured of one contestant with one size.
pub struct Row {
    /// Who.
    pub contestant: Contestant,
    /// Bytes received, with all of HTTP.
    pub fetched: u64,
    /// One per round.
    pub costs: Vec<Cost>,
}

/// The cost of a check that finds nothing new.
pub struct Idle {
    /// Whose check.
    pub contestant: Contestant,
    /// Bytes received, with all of HTTP.
    pub fetched: u64,
    /// Requests sent.
    pub requests: u64,
    /// One per check.
    pub costs: Vec<Cost>,
}

impl std::fmt::Display for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milliseconds = |of: fn(&Cost) -> f64| median(self.costs.iter().map(of).collect()).unwrap_or_default() * 1e3;
        write!(
            f,
            "An idle check, {}: {} request, {} bytes received, {:.1} ms of CPU, {:.0} ms in all (medians of {}), at most \
             {:.1} MiB of memory.{}",
            self.contestant.name(),
            self.requests,
            self.fetched,
            milliseconds(|cost| cost.cpu),
            milliseconds(|cost| cost.wall),
            self.costs.len(),
            self.peak(),
            if self.is_within_limits() { "" } else { " ABOVE ITS LIMIT." }
        )
    }
}

impl Idle {
    /// The largest of all checks, in MiB.
    fn peak(&self) -> f64 {
        self.costs.iter().map(|cost| cost.peak).max().unwrap_or_default() as f64 / 1024.0
    }

    /// 10 ms of CPU and 12 MiB, as docs/performance.md promises.
    fn is_within_limits(&self) -> bool {
        let cpu = median(self.costs.iter().map(|cost| cost.cpu).collect()).unwrap_or_default();
        cpu <= 0.010 && self.peak() <= 12.0
    }
}

/// Medians over all rounds; CPU and wall as ratios to the floor of the same round.
struct Summary {
    cpu: f64,
    wall: f64,
    /// The same before the read-back.
    before: Option<(f64, f64)>,
    cpu_seconds: f64,
    peak: f64,
    written: f64,
}

impl Field {
    fn summary(&self, row: &Row) -> Option<Summary> {
        let floor = &self.rows.iter().find(|other| other.contestant == row.contestant.floor())?.costs;
        let ratios = |of: &dyn Fn(&Cost) -> Option<f64>, to: &dyn Fn(&Cost) -> f64| {
            median(row.costs.iter().zip(floor).filter_map(|(cost, floor)| Some(of(cost)? / to(floor))).collect())
        };
        let before_cpu = ratios(&|cost| Some(cost.before_read_back?.0), &|floor| floor.cpu);
        let before_wall = ratios(&|cost| Some(cost.before_read_back?.1), &|floor| floor.wall);
        Some(Summary {
            cpu: ratios(&|cost| Some(cost.cpu), &|floor| floor.cpu)?,
            wall: ratios(&|cost| Some(cost.wall), &|floor| floor.wall)?,
            before: before_cpu.zip(before_wall),
            cpu_seconds: median(row.costs.iter().map(|cost| cost.cpu).collect())?,
            peak: row.costs.iter().map(|cost| cost.peak).max()? as f64 / 1024.0,
            written: median(row.costs.iter().map(|cost| cost.written as f64).collect())? / self.bytes as f64,
        })
    }
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let last = numbers.len().checked_sub(1)?;
    Some((numbers[last / 2] + numbers[last.div_ceil(2)]) / 2.0)
}

/// The table of one size, in Markdown.
pub fn table(field: &Field) -> String {
    let rounds = field.rows.first().map_or(0, |row| row.costs.len());
    let mut text = format!("### {} MiB, {rounds} rounds\n\n", field.mib);
    text += "| | CPU | wall | CPU s | peak MiB | written | fetched beyond the image |\n|---|---|---|---|---|---|---|\n";
    for row in &field.rows {
        let Some(sum) = field.summary(row) else { continue };
        let with = |all: f64, before: Option<f64>| match before {
            Some(before) => format!("{before:.2}; {all:.2} with read-back"),
            None => format!("{all:.2}"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2} | {:.1} | {:.3} | {:.1} KiB |",
            row.contestant.name(),
            with(sum.cpu, sum.before.map(|before| before.0)),
            with(sum.wall, sum.before.map(|before| before.1)),
            sum.cpu_seconds,
            sum.peak,
            sum.written,
            (row.fetched as f64 - field.bytes as f64) / 1024.0
        );
    }
    text
}

/// Puts tables and picture under `target/bench`, and into the documentation if wanted.
///
/// # Errors
/// A file cannot be written, or docs/performance.md has no place for the tables.
pub fn write(fields: &[Field], idle: &[Idle], absent: &[String], docs: bool) -> Result<()> {
    let place = release::place();
    let mut tables: Vec<_> = fields.iter().map(table).collect();
    tables.extend(idle.iter().map(|idle| format!("{idle}\n")));
    tables.extend(absent.iter().map(|absent| format!("Not measured: {absent}.\n")));
    let tables = tables.join("\n");
    let picture = fields.iter().find(|field| field.mib == 256).or(fields.last()).map(picture).unwrap_or_default();
    fs::write(place.join("performance.md"), &tables)?;
    fs::write(place.join("performance.svg"), &picture)?;
    if !docs {
        println!("tables and picture are in {}", place.display());
        return Ok(());
    }
    let page = root().join("docs/performance.md");
    let text = fs::read_to_string(&page)?;
    let begin = "<!-- made by: make bench DOCS=1 -->\n";
    let end = "<!-- end -->";
    let (head, rest) = text.split_once(begin).ok_or("docs/performance.md has no place for the tables")?;
    let (_, tail) = rest.split_once(end).ok_or("docs/performance.md has no end of the tables")?;
    fs::write(page, format!("{head}{begin}\n{tables}\n{end}{tail}"))?;
    fs::write(root().join("docs/performance.svg"), picture)?;
    println!("docs/performance.md and docs/performance.svg are up to date");
    Ok(())
}

const WIDTH: f64 = 960.0;
const NAMES: f64 = 250.0;
const LINE: f64 = 22.0;

/// Bars of one size: CPU, wall and memory side by side.
fn picture(field: &Field) -> String {
    let rows: Vec<_> = field.rows.iter().filter_map(|row| Some((row.contestant, field.summary(row)?))).collect();
    let height = 74.0 + LINE * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Cost of an update of {} MiB (shorter is better; pale: the read-back, which only this agent does)</text>\n",
        field.mib
    );
    type Panel = (&'static str, fn(&Summary) -> (f64, f64));
    let panels: [Panel; 4] = [
        ("CPU, times the floor", |sum| (sum.before.map_or(sum.cpu, |before| before.0), sum.cpu)),
        ("time, times the floor", |sum| (sum.before.map_or(sum.wall, |before| before.1), sum.wall)),
        ("written, times the image", |sum| (sum.written, sum.written)),
        ("peak memory, MiB", |sum| (sum.peak, sum.peak)),
    ];
    let step = (WIDTH - NAMES) / panels.len() as f64;
    for (panel, (title, values)) in panels.iter().enumerate() {
        let left = NAMES + step * panel as f64;
        let largest = rows.iter().map(|(_, sum)| values(sum).1).fold(0.0, f64::max);
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"46\" fill=\"#555\">{title}</text>");
        for (line, (contestant, sum)) in rows.iter().enumerate() {
            let top = 56.0 + LINE * line as f64;
            let (value, all) = values(sum);
            let wide = |value: f64| value / largest * (step - 60.0);
            let (color, pale) = match contestant {
                Contestant::Agent(_) => ("#2166ac", "#a6c8e4"),
                Contestant::Floor(_) => ("#999", "#999"),
                _ => ("#d6803c", "#d6803c"),
            };
            if panel == 0 {
                let _ = writeln!(svg, "<text x=\"10\" y=\"{:.0}\">{}</text>", top + 13.0, contestant.name());
            }
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{top}\" width=\"{:.1}\" height=\"16\" fill=\"{pale}\"/>\
                 <rect x=\"{left}\" y=\"{top}\" width=\"{:.1}\" height=\"16\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{value:.1}</text>",
                wide(all),
                wide(value),
                left + wide(all) + 4.0,
                top + 13.0
            );
        }
    }
    svg + "</svg>\n"
}
