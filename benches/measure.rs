//! What one child process cost.
//!
//! A process learns of its children's usage only as a sum over all that it has waited for, so each child gets a parent
//! of its own: this program again, with `--measure`, which starts it, waits, and prints one line.

use std::fmt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// The whole-process usage of one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    pub(crate) wall: Duration,
    /// The most memory that was resident.
    pub(crate) peak_kib: u64,
}

impl Usage {
    /// Returns user and system time together.
    pub(crate) fn cpu(&self) -> Duration {
        self.user + self.system
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let mut micros = || next().map(Duration::from_micros);
        let (user, system, wall) = (micros()?, micros()?, micros()?);
        Some(Self { user, system, wall, peak_kib: next()? })
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [user, system, wall] = [self.user, self.system, self.wall].map(|time| time.as_micros());
        write!(f, "{user} {system} {wall} {}", self.peak_kib)
    }
}

/// Runs `command` to its end and returns what it cost; panics with its stderr when it fails.
pub(crate) fn run(command: &Command) -> Usage {
    // What earlier runs left for the disk must not be this one's burden.
    nix::unistd::sync();
    let mut parent = Command::new(std::env::current_exe().expect("this program has a path"));
    parent.arg("--measure").arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    let output = parent.output().expect("this program starts again");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{complaint}");
    let printed = String::from_utf8_lossy(&output.stdout);
    Usage::parse(&printed).unwrap_or_else(|| panic!("{command:?} was not measured: {printed}{complaint}"))
}

/// Is the parent of one child: runs `command`, prints its [`Usage`], and ends as it ended.
pub(crate) fn parent(command: &[String]) {
    let (program, arguments) = command.split_first().expect("a command to measure");
    let mut child = Command::new(program);
    child.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).env_remove("RUST_LOG");
    let began = Instant::now();
    let status = child.status().unwrap_or_else(|error| panic!("{program}: {error}"));
    let wall = began.elapsed();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel counts");
    let peak_kib = usage.max_rss().unsigned_abs();
    println!("{}", Usage { user: time(usage.user_time()), system: time(usage.system_time()), wall, peak_kib });
    if !status.success() {
        std::process::exit(1);
    }
}

/// Returns the CPU time that the running process `id` has taken, all of its threads together.
#[allow(dead_code, reason = "only a restore's bench needs it")]
pub(crate) fn cpu_of(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
    // Behind the name, which may have blanks, stand eleven fields, then its times.
    let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
    // A hundred a second, whatever the kernel counts in (`USER_HZ`).
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn time(value: TimeVal) -> Duration {
    Duration::from_secs(value.tv_sec().unsigned_abs()) + Duration::from_micros(value.tv_usec().unsigned_abs())
}
