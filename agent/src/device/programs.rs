//! Executables of the image that are asked for a verdict: a folder of them, bounded in time and in what they may say.

use std::ffi::OsStr;
use std::io::{ErrorKind, PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::base::error::{Error, Reason};
use crate::base::{files, limits, text};

/// Where tools are if the environment has no `PATH`.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Reason of an error in a program.
const UNSAFE: Reason = Reason::UnsafeFile;
/// Bytes of a program's output that are kept for the message; the rest is read and forgotten.
const OUTPUT: usize = 4096;
/// Longest `#!` line that the kernel reads, in bytes: `BINPRM_BUF_SIZE`, linux/binfmts.h.
const SHEBANG: u64 = 256;
/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: it did not end in time, and was ended with all its children.
    pub status: Option<ExitStatus>,
    /// The beginning of what it printed, escaped.
    pub said: String,
    /// More of it, in one escaped line, for the evidence of a trial: at most [`limits::EVIDENCE_OUTPUT_BYTES`].
    pub output: String,
}

/// Content of a folder of programs.
#[derive(Debug, Default)]
pub struct Folder {
    /// Programs to run, in the order of their names.
    pub programs: Vec<PathBuf>,
    /// Entries that look like programs and cannot run.
    pub unusable: Vec<Unusable>,
    /// Entries whose names say that they are other versions of a program.
    pub passed_over: Vec<PathBuf>,
}

impl Folder {
    /// Messages about entries that do not run: unusable ones, then those passed over.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let unusable = self.unusable.iter().map(|one| format!("{}: {}", files::name(&one.file), one.why));
        let passed_over = self.passed_over.iter().map(|file| {
            format!("{}: not run because of its name, which marks another version of a file", files::name(file))
        });
        unusable.chain(passed_over)
    }
}

/// An entry that looks like a program and cannot run.
#[derive(Debug)]
pub struct Unusable {
    /// Its path.
    pub file: PathBuf,
    /// The cause and the next step.
    pub why: String,
}

/// Reads a folder of programs; a missing folder is empty. Files without execute permission that begin neither with `#!` nor as
/// an ELF file are no programs: documentation, data of a program.
///
/// # Errors
/// The cause if the folder cannot be read.
pub fn folder(folder: &Path) -> Result<Folder, String> {
    let listing = match files::list(folder) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Folder::default()),
        other => other.map_err(|cause| format!("cannot read {}: {cause}", folder.display()))?,
    };
    let mut found = Folder { passed_over: listing.passed_over, ..Folder::default() };
    for file in listing.entries {
        match usable(&file) {
            Ok(true) => found.programs.push(file),
            Ok(false) => {}
            Err(why) => found.unusable.push(Unusable { file, why }),
        }
    }
    Ok(found)
}

/// True if an entry is a program.
///
/// # Errors
/// The cause if it looks like one and cannot run.
fn usable(file: &Path) -> Result<bool, String> {
    let meta = match file.metadata() {
        Ok(meta) => meta,
        Err(cause) if cause.kind() == ErrorKind::NotFound && file.is_symlink() => {
            let target = file.read_link().unwrap_or_default();
            return Err(format!(
                "not run: it is a link to {}, which does not exist. Correct or remove the link",
                text::escape(&target.to_string_lossy())
            ));
        }
        Err(cause) => return Err(format!("not run: cannot inspect it: {cause}")),
    };
    if !meta.is_file() {
        return Ok(false);
    }
    if meta.permissions().mode() & 0o111 != 0 {
        return Ok(true);
    }
    let begin = files::read_data(file, 4).map_err(|cause| format!("not run: cannot read it: {cause}"))?;
    if begin.starts_with(b"#!") || begin == b"\x7fELF" {
        let file = text::escape(&file.to_string_lossy());
        return Err(format!("not run: it is not executable. Run chmod +x {file}, or remove it"));
    }
    Ok(false)
}

/// Runs a program to its end, or for as long as the budget lasts.
///
/// # Errors
/// Why it cannot be started.
pub fn run<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    file: &Path,
    budget: Duration,
    environment: impl IntoIterator<Item = (K, V)>,
) -> Result<Ended, String> {
    run_with(file, budget, environment, b"")
}

/// The same, with `input` on its standard input: less than a pipe holds, which is 64 KiB.
///
/// # Errors
/// Why it cannot be started.
pub fn run_with<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    file: &Path,
    budget: Duration,
    environment: impl IntoIterator<Item = (K, V)>,
    input: &[u8],
) -> Result<Ended, String> {
    let mut running = Running::start(file, environment, input)?;
    let status = running.wait(budget, POLL);
    let _ = killpg(Pid::from_raw(running.child.id().cast_signed()), Signal::SIGKILL);
    if status.is_none() {
        let _ = running.child.wait();
    }
    running.output.take_in();
    Ok(Ended { status, said: running.output.said(), output: running.output.whole() })
}

/// A program that nobody but root and this user can have written. Its path is resolved once, and what was checked is run: no
/// link on the way can change in between.
///
/// # Errors
/// Why it is not run.
#[expect(clippy::disallowed_methods, reason = "this is the one way to run a program")]
pub fn command(file: &Path) -> Result<Command, String> {
    let untrusted = |e: Error| format!("{}. {}", e.message, e.remedy);
    let missing = || format!("{} is not there", file.display());
    let real = files::resolve(file, UNSAFE).map_err(untrusted)?.ok_or_else(missing)?;
    let meta = real.symlink_metadata().map_err(|e| format!("cannot inspect {}: {e}", real.display()))?;
    if !meta.is_file() {
        return Err(format!("{} is not a regular file", real.display()));
    }
    files::check_owner(&meta, &real, UNSAFE).map_err(untrusted)?;
    let mut command = Command::new(&real);
    // Some programs, such as those of busybox, go by the name that they were called by.
    command.arg0(file);
    Ok(command)
}

/// A tool of the system, from the first folder of `PATH` that has one that can be run.
///
/// # Errors
/// Why there is none.
pub fn tool(name: &str) -> Result<Command, String> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let mut why = format!("{name} is not there");
    for folder in std::env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        let file = folder.join(name);
        if file.symlink_metadata().is_ok() {
            match command(&file) {
                Ok(command) => return Ok(command),
                Err(untrusted) => why = untrusted,
            }
        }
    }
    Err(why)
}

struct Running {
    child: Child,
    output: Output,
}

impl Running {
    fn start<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        file: &Path,
        environment: impl IntoIterator<Item = (K, V)>,
        input: &[u8],
    ) -> Result<Self, String> {
        let mut command = command(file)?;
        let unheard = |cause: std::io::Error| format!("cannot read its output: {cause}");
        let (reader, writer) = std::io::pipe().map_err(unheard)?;
        let output = Output::new(reader).map_err(unheard)?;
        let child = command
            .stdin(given(input).map_err(|cause| format!("cannot give it its input: {cause}"))?)
            .stderr(writer.try_clone().map_err(unheard)?)
            .stdout(writer)
            .envs(environment)
            .process_group(0)
            .spawn()
            .map_err(|cause| not_started(file, &cause))?;
        Ok(Self { child, output })
    }

    /// Waits for its end, at most for `budget`. Without output it looks every `pause`.
    fn wait(&mut self, budget: Duration, pause: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + budget;
        loop {
            let talks = self.output.take_in();
            let left = end.saturating_duration_since(Instant::now());
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if left.is_zero() => return None,
                Ok(None) if talks => {}
                Ok(None) => self.output.wait(left.min(pause)),
                Err(_) => return None,
            }
        }
    }
}

/// Standard input with these bytes, which are in the pipe before the program starts.
fn given(input: &[u8]) -> std::io::Result<Stdio> {
    if input.is_empty() {
        return Ok(Stdio::null());
    }
    let (reader, mut writer) = std::io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    writer.write_all(input)?;
    Ok(reader.into())
}

/// Says why the kernel does not start a program. It reports an interpreter that does not exist as if the program did not.
fn not_started(file: &Path, cause: &std::io::Error) -> String {
    let begin = files::read_data(file, SHEBANG).unwrap_or_default();
    let line = begin.strip_prefix(b"#!").and_then(|line| line.split(|b| *b == b'\n').next());
    let interpreter = line.map(|line| String::from_utf8_lossy(line.trim_ascii_start()).into_owned());
    match (cause.raw_os_error(), interpreter) {
        (Some(libc::ENOENT), Some(line)) => {
            let path = line.split([' ', '\t']).next().unwrap_or_default();
            let remedy = if path.ends_with('\r') {
                "The file has Windows line endings (CRLF): remove the carriage returns"
            } else {
                "Correct the first line, or add the interpreter to the OS image"
            };
            format!("cannot start: its interpreter \"{}\" does not exist. {remedy}", text::escape(path))
        }
        (Some(libc::ENOENT), None) => {
            "cannot start: its dynamic loader does not exist. Add it to the OS image, or link the program statically"
                .into()
        }
        (Some(libc::ENOEXEC), None) => {
            "cannot start: it has no #! line and is no program for this machine. Begin a script with #!/bin/sh".into()
        }
        _ => format!("cannot start: {cause}"),
    }
}

/// Output of a program. The reader never waits for its end: a child that the program left behind must not block the agent.
struct Output {
    pipe: PipeReader,
    kept: Vec<u8>,
    ended: bool,
}

impl Output {
    fn new(pipe: PipeReader) -> std::io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { pipe, kept: vec![], ended: false })
    }

    /// Reads what is there, so that a program that prints much goes on; true if that was something. Not more than a pipe
    /// holds, so that one that prints without end does not keep this from looking at the time.
    fn take_in(&mut self) -> bool {
        let mut buffer = [0; 4096];
        for n in 0..16 {
            let read = match self.pipe.read(&mut buffer) {
                Ok(read @ 1..) => read,
                nothing => {
                    self.ended = nothing.is_ok();
                    return n > 0;
                }
            };
            let room = OUTPUT - self.kept.len();
            self.kept.extend_from_slice(&buffer[..read.min(room)]);
        }
        true
    }

    /// Waits until there is output, at most for `most`. After the end of the output the program itself ends soon, or never.
    fn wait(&self, most: Duration) {
        let milliseconds = PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO);
        if self.ended || poll(&mut [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)], milliseconds).is_err() {
            std::thread::sleep(most.min(POLL));
        }
    }

    fn said(&self) -> String {
        text::escape(String::from_utf8_lossy(&self.kept).trim())
    }

    fn whole(&self) -> String {
        let mut line = text::printable(String::from_utf8_lossy(&self.kept).trim());
        line.truncate(limits::EVIDENCE_OUTPUT_BYTES);
        line
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A program `bin/PROGRAM` that says which file it is.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("program"), "#!/bin/sh\necho $0\n").unwrap();
        fs::set_permissions(bin.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn the_program_that_was_checked_is_the_one_that_runs() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        symlink("bin", path("alias")).unwrap();
        symlink("../bin/program", path("bin/10-check")).unwrap();
        let ended = run(&path("alias/10-check"), Duration::from_secs(20), [("", ""); 0]).unwrap();
        let real = path("bin/program").canonicalize().unwrap();
        assert_eq!(ended.said, text::escape(real.to_str().unwrap()), "no link is followed again");
        assert!(run(&path("bin/none"), Duration::from_secs(20), [("", ""); 0]).unwrap_err().contains("not there"));
    }

    #[test]
    fn no_program_runs_below_a_folder_that_others_can_write() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("checks")).unwrap();
        symlink("../bin/program", path("checks/10-check")).unwrap();
        // The folder of the link, that of the program, and one above both.
        for spoilt in ["checks", "bin", ""] {
            fs::set_permissions(path(spoilt), fs::Permissions::from_mode(0o777)).unwrap();
            let why = run(&path("checks/10-check"), Duration::from_secs(20), [("", ""); 0]).unwrap_err();
            assert!(why.contains("writable by others"), "{spoilt}: {why}");
            fs::set_permissions(path(spoilt), fs::Permissions::from_mode(0o755)).unwrap();
        }
        command(&path("checks/10-check")).unwrap();
        fs::set_permissions(path("bin/program"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(command(&path("checks/10-check")).unwrap_err().contains("writable by others"));
    }

    fn script(file: &Path, content: &str, mode: u32) {
        fs::write(file, content).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn output_is_read_as_soon_as_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chatty");
        script(&file, "#!/bin/sh\nyes | head -c 1000000\n", 0o755);
        // It fills the pipe 15 times, and each pause alone would take all the time it has.
        let budget = Duration::from_secs(20);
        let mut running = Running::start(&file, [("", ""); 0], b"").unwrap();
        let status = running.wait(budget, budget);
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        assert_eq!(running.output.kept.len(), OUTPUT);
    }

    #[test]
    fn a_program_that_closes_its_output_is_still_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("silent");
        script(&file, "#!/bin/sh\nexec >&- 2>&-\nsleep 0.2\nexit 3\n", 0o755);
        let ended = run(&file, Duration::from_secs(20), [("", ""); 0]).unwrap();
        assert_eq!(ended.status.unwrap().code(), Some(3));
    }

    #[test]
    fn an_interpreter_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("check");
        for (content, words) in [
            (
                "#!/bin/sh\r\nexit 0\r\n",
                "its interpreter \"/bin/sh\\r\" does not exist. The file has Windows line endings",
            ),
            ("#! /usr/bin/nosuch -e\n", "its interpreter \"/usr/bin/nosuch\" does not exist. Correct the first line"),
            ("exit 0\n", "it has no #! line"),
        ] {
            script(&file, content, 0o755);
            let why = run(&file, Duration::from_secs(20), [("", ""); 0]).unwrap_err();
            assert!(why.contains(words), "{content:?}: {why}");
        }
    }

    #[test]
    fn a_program_that_cannot_run_is_not_taken_for_documentation() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        script(&path("10-check.sh"), "#!/bin/sh\n", 0o755);
        script(&path("20-check"), "#!/bin/sh\n", 0o644);
        symlink("nowhere", path("30-check")).unwrap();
        script(&path("40-check~"), "#!/bin/sh\n", 0o755);
        fs::create_dir(path("wanted")).unwrap();
        script(&path("README"), "Text.\n", 0o644);
        let found = super::folder(folder.path()).unwrap();
        assert_eq!(files::names(&found.programs), "10-check.sh");
        assert_eq!(files::names(&found.passed_over), "40-check~");
        let [no_bit, dangling] = &found.unusable[..] else { panic!("{found:?}") };
        assert!(no_bit.file == path("20-check") && no_bit.why.contains("chmod +x"), "{no_bit:?}");
        assert!(dangling.file == path("30-check") && dangling.why.contains("link to nowhere"), "{dangling:?}");
        assert_eq!(found.warnings().count(), 3);
    }
}
