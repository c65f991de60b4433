//! `check` for people: the verdict first.

use chrono::Utc;

use super::screen::{Screen, Tone};
use crate::base::console::Terminal;
use crate::base::console::progress::size;
use crate::base::text;
use crate::policy::gate::Gate;
use crate::schedule::clock;
use crate::state::state::Outcome;
use crate::update::check::CheckReport;

/// The report; open gates and the digest only with details.
pub(in crate::cli) fn checked(checked: &CheckReport, terminal: Terminal, details: bool) -> String {
    let mut screen = Screen::new(terminal);
    let verdict = verdict(checked, &screen);
    screen.plain(&verdict);
    screen.part();
    let offered = &checked.offered;
    let size = offered.size.map_or(String::new(), |bytes| format!(" ({})", size(bytes)));
    screen.line("offered:", &format!("{} from {}{size}", offered.version, offered.origin));
    if details {
        screen.line("digest:", &offered.digest);
    }
    let by = match (offered.claimed, &offered.signed_by[..]) {
        (true, _) => "claimed: the server signs only the images".into(),
        (false, []) => "not checked: no key".into(),
        (false, by) => by.join(", "),
    };
    screen.line("signed:", &by);
    if let Some(freshness) = &checked.freshness {
        screen.line("latest:", &freshness.to_string());
    }
    let ends = [("running", checked.running_supported_until), ("offered", offered.supported_until)];
    for (which, ends) in ends {
        // The release on offer runs already: one line is enough.
        let Some(ends) = ends.filter(|_| which == "offered" || checked.verdict != Outcome::UpToDate) else { continue };
        let over = if ends < Utc::now() { screen.paint(Tone::Bad, ", which is over") } else { String::new() };
        screen.line("support:", &format!("{which} release until {}{over}", clock::shown(ends)));
    }
    if let Some(changes) = &checked.changes {
        super::changes::changes(&mut screen, changes, false);
    }
    if let Some(notes) = &offered.release_notes {
        screen.line("notes:", &text::escape(notes));
    }
    if let Some(remaining) = checked.ratelimit_remaining {
        screen.line("limit:", &format!("{remaining} requests left at the source"));
    }
    for gate in checked.gates.iter().filter(|gate| details || !gate.open || gate.unknown) {
        gate_line(&mut screen, gate);
    }
    if let Some(device) = &checked.device {
        screen.line("device:", device);
    } else if checked.verdict != Outcome::UpToDate {
        let next = checked.gates.iter().find_map(Gate::refusal).map(|refusal| refusal.remedy);
        screen.line("next:", next.as_deref().unwrap_or("kubesolo-update apply"));
    }
    screen.finish()
}

fn verdict(checked: &CheckReport, screen: &Screen) -> String {
    let running = checked.running.as_deref().unwrap_or("an unknown version");
    let offered = &checked.offered.version;
    if checked.device.is_some() {
        let word = screen.paint(Tone::Held, "unknown");
        return format!("{word}: {offered} is offered; the slots of this machine are not seen");
    }
    let closed = checked.gates.iter().find(|gate| !gate.open);
    let because = closed.map_or(String::new(), |gate| {
        let opens = gate.opens_at.map_or(String::new(), |at| format!(" until {}", clock::shown(at)));
        format!(" by {}{opens}", gate.name)
    });
    match checked.verdict {
        Outcome::UpToDate => format!("{}: {running}", screen.paint(Tone::Good, "up to date")),
        Outcome::UpdateAvailable => {
            format!("{}: {running} to {offered}", screen.paint(Tone::Good, "update available"))
        }
        Outcome::Unknown => format!("{}: {running} runs, {offered} is offered", screen.paint(Tone::Held, "unknown")),
        _ => format!("{}: {offered} is held back{because}", screen.paint(Tone::Held, "held")),
    }
}

fn gate_line(screen: &mut Screen, gate: &Gate) {
    let (tone, word) = match (gate.open, gate.unknown) {
        (true, false) => (Tone::Good, "open"),
        (true, true) => (Tone::Held, "warn"),
        (false, _) => (Tone::Held, "closed"),
    };
    let opens = gate.opens_at.map_or(String::new(), |at| format!("; opens {}", clock::shown(at)));
    let blanks = " ".repeat(6 - word.len());
    let word = screen.paint(tone, word);
    screen.line("gate:", &format!("{word}{blanks} {}: {}{opens}", gate.name, gate.message));
}
