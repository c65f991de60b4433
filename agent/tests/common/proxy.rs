//! Real proxies on loopback: tinyproxy and squid.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::registry::find;

/// The host that every one of these proxies forbids.
pub const FORBIDDEN: &str = "forbidden.test";
/// The login that a proxy wants, if it wants one.
pub const LOGIN: &str = "user:hunter2";

/// Which program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tinyproxy,
    Squid,
}

pub const KINDS: [Kind; 2] = [Kind::Tinyproxy, Kind::Squid];

/// A proxy, until dropped.
pub struct Proxy {
    /// `127.0.0.1:port`
    pub address: String,
    child: Child,
    folder: TempDir,
}

impl Kind {
    /// Another name of this machine, for the proxy: clients reach loopback without one. A connection to 0.0.0.0 stays here;
    /// squid takes no such address, but has a table of hosts.
    fn this_machine(self) -> &'static str {
        match self {
            Self::Tinyproxy => "0.0.0.0",
            Self::Squid => "registry.test",
        }
    }

    /// The address of a listener on loopback under that name.
    pub fn name_of(self, address: &str) -> String {
        address.replace("127.0.0.1", self.this_machine())
    }

    /// Starts one that wants [`LOGIN`], or none.
    pub fn start(self, login: bool) -> Proxy {
        // Another process can take the port between its choice and its use.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let folder = TempDir::new().unwrap();
            let mut child = self.command(folder.path(), address.port(), login).stdout(Stdio::null()).spawn().unwrap();
            let begin = Instant::now();
            while child.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Proxy { address: address.to_string(), child, folder };
                }
                assert!(begin.elapsed() < Duration::from_secs(60), "{self:?} does not answer");
                std::thread::sleep(Duration::from_millis(20));
            }
            eprintln!("{self:?}: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
        }
        panic!("{self:?} does not start");
    }

    fn command(self, folder: &Path, port: u16, login: bool) -> Command {
        let at = folder.display();
        let (user, password) = LOGIN.split_once(':').unwrap();
        let (name, config) = match self {
            Self::Tinyproxy => {
                fs::write(folder.join("filter"), format!("^{}$\n", FORBIDDEN.replace('.', "\\."))).unwrap();
                let login = if login { format!("BasicAuth {user} {password}\n") } else { String::new() };
                let config = format!(
                    "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogFile \"{at}/log\"\nPidFile \"{at}/pid\"\n\
                     Filter \"{at}/filter\"\n{login}"
                );
                ("tinyproxy", config)
            }
            Self::Squid => ("squid", squid(folder, port, login)),
        };
        fs::write(folder.join("conf"), config).unwrap();
        let program = find(name).unwrap_or_else(|| panic!("{name} is needed: build/scripts/setup.sh test"));
        let mut command = Command::new(&program);
        match self {
            Self::Tinyproxy => command.arg("-d").arg("-c").arg(folder.join("conf")),
            Self::Squid => command
                .env("LD_LIBRARY_PATH", usr_of(&program).join("lib/x86_64-linux-gnu"))
                .args(["-N", "-n", &format!("test{port}"), "-f"])
                .arg(folder.join("conf")),
        };
        command
    }
}

/// `usr` of the tree that the program was unpacked into.
fn usr_of(program: &Path) -> PathBuf {
    program.parent().and_then(Path::parent).unwrap().to_owned()
}

fn squid(folder: &Path, port: u16, login: bool) -> String {
    let at = folder.display();
    let usr = usr_of(&find("squid").expect("squid is needed: build/scripts/setup.sh test"));
    let usr = usr.canonicalize().unwrap();
    let usr = usr.display();
    let (user, password) = LOGIN.split_once(':').unwrap();
    let hashed = Command::new("openssl").args(["passwd", "-apr1", password]).output().unwrap().stdout;
    fs::write(folder.join("passwd"), format!("{user}:{}", String::from_utf8(hashed).unwrap())).unwrap();
    fs::write(folder.join("hosts"), "127.0.0.1 registry.test\n").unwrap();
    // Squid gives up root.
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let (auth, allowed) = if login {
        let auth = format!(
            "auth_param basic program {usr}/lib/squid/basic_ncsa_auth {at}/passwd\nauth_param basic children 1\n\
             acl known proxy_auth REQUIRED\n"
        );
        (auth, "known")
    } else {
        (String::new(), "all")
    };
    format!(
        "http_port 127.0.0.1:{port}\npid_filename {at}/pid\ncache_log {at}/log\naccess_log stdio:{at}/access\n\
         cache deny all\nhosts_file {at}/hosts\nmime_table {usr}/share/squid/mime.conf\n\
         error_directory {usr}/share/squid/errors/templates\nicon_directory {usr}/share/squid/icons\n\
         coredump_dir {at}\nshutdown_lifetime 0 seconds\npinger_enable off\nunlinkd_program {usr}/lib/squid/unlinkd\ncache_mem 8 MB\n{auth}\
         acl forbidden dstdomain {FORBIDDEN}\nhttp_access deny forbidden\nhttp_access allow {allowed}\nhttp_access deny all\n"
    )
}

impl Proxy {
    /// The same once it has these words.
    pub fn log_with(&self, words: &str) -> String {
        for _ in 0..100 {
            if self.log().contains(words) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.log()
    }

    /// Its lines about requests.
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("log") + &read("access")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
