//! Real OVSDB servers and `ovn-northd`, on Unix sockets in a folder of their own; gone when dropped.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ovsdb::Remote;

/// Where cargo puts what it builds: this program is `<target>/debug/examples/bench`.
pub fn target_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(3).expect("a folder three above the program").to_owned()
}

/// The program `ferrovia`, built beside this one.
pub fn ferrovia() -> PathBuf {
    target_folder().join("debug/ferrovia")
}

/// A program that ends with this value.
pub struct Running(Child);

impl Running {
    pub fn start(program: &str, arguments: &[String]) -> Self {
        Self::command(Command::new(program).args(arguments))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Processor time of its main thread (`/proc/PID/schedstat`: the kernel's sched-stats document).
    pub fn computed(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.id())).unwrap();
        Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
    }

    pub fn command(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One database in `<folder>/<name>.db`, served on `<folder>/<name>.sock`.
pub struct Database {
    folder: PathBuf,
    name: &'static str,
    server: Option<Running>,
}

impl Database {
    /// An empty one, served.
    pub fn start(folder: &Path, name: &'static str) -> Self {
        let mut database = Self { folder: folder.to_owned(), name, server: None };
        database.begin();
        database
    }

    fn begin(&mut self) {
        let file = self.folder.join(format!("{}.db", self.name)).display().to_string();
        let schema = format!("/usr/share/ovn/ovn-{}.ovsschema", self.name);
        assert!(Command::new("ovsdb-tool").args(["create", &file, &schema]).status().unwrap().success());
        let socket = self.socket();
        let control = self.folder.join(format!("{}.ctl", self.name)).display().to_string();
        let arguments = [
            format!("--remote=punix:{}", socket.display()),
            format!("--unixctl={control}"),
            "--no-chdir".into(),
            "-vfile:off".into(),
            file,
        ];
        self.server = Some(Running::start("ovsdb-server", &arguments));
        listens(&socket);
        // The row that belongs to everybody.
        let program = format!("ovn-{}ctl", self.name);
        assert!(Command::new(program).arg(format!("--db={}", self.remote())).arg("init").status().unwrap().success());
    }

    /// Stops the server, forgets everything, and starts it again.
    pub fn wipe(&mut self) {
        self.server = None;
        for file in [format!("{}.db", self.name), format!(".{}.db.~lock~", self.name), format!("{}.sock", self.name)] {
            let _ = std::fs::remove_file(self.folder.join(file));
        }
        self.begin();
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!("{}.sock", self.name))
    }

    pub fn remote(&self) -> Remote {
        Remote::Unix(self.socket())
    }
}

/// Waits until a server listens there.
pub fn listens(socket: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {}", socket.display());
        #[allow(clippy::disallowed_methods, reason = "nothing tells when a socket is there")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `ovn-northd` between two databases.
pub fn northd(folder: &Path, northbound: &Database, southbound: &Database) -> Running {
    let arguments = [
        format!("--ovnnb-db={}", northbound.remote()),
        format!("--ovnsb-db={}", southbound.remote()),
        format!("--unixctl={}", folder.join("northd.ctl").display()),
        "--no-chdir".into(),
    ];
    Running::start("ovn-northd", &arguments)
}
