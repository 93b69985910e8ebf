//! A folder whose disk is full: a real file system of its own, filled by the test.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use super::{Ground, PATIENCE, archived, listen};
use crate::support::agent::{Agent, Backup};
use crate::support::chain::{assert_prefix, assert_same};
use crate::support::reaper::{self, Process};
use crate::support::wait_within;

/// The size of the disk.
const DISK: &str = "size=64m";

/// A `/dev/shm` up to this size may be filled: that of a container, not half of a machine's memory.
const SMALL_BYTES: u64 = 256 << 20;

/// What the full disk leaves: room for a first part of a segment, not for all of it.
const LEFT_BYTES: u64 = 8 << 20;

/// A small file system. Its fields drop in order: what is in it before what it is.
struct Disk {
    folder: PathBuf,
    _place: Place,
}

enum Place {
    /// A mount that only the process sees, and that ends with it; we reach it through `/proc`.
    Namespace { _holder: Process, _mounted_on: TempDir },
    /// A folder of a container's small `/dev/shm`.
    Shared { _folder: TempDir },
}

impl Disk {
    /// Makes a disk: as root in a mount namespace, else in a user namespace, else in a small `/dev/shm`.
    fn new() -> Self {
        let mounted_on = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
        reaper::remove_at_end(mounted_on.path());
        for namespace in [&["-m"][..], &["-r", "-m"]] {
            let script = "mount -t tmpfs -o \"$1\" tmpfs \"$0\" && echo mounted && exec sleep infinity";
            let mut holder = Command::new("unshare");
            holder.args(namespace).args(["sh", "-c", script]).arg(mounted_on.path()).arg(DISK);
            let Ok(mut holder) = Process::start(holder.stdin(Stdio::null()).stdout(Stdio::piped())) else { break };
            let stdout = holder.child().stdout.take().expect("a pipe");
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line).expect("a pipe");
            if line.trim() == "mounted" {
                let within = mounted_on.path().strip_prefix("/").expect("an absolute path");
                let folder = PathBuf::from(format!("/proc/{}/root", holder.id())).join(within);
                return Self { folder, _place: Place::Namespace { _holder: holder, _mounted_on: mounted_on } };
            }
        }
        let small = statvfs("/dev/shm").is_ok_and(|shm| shm.blocks() * shm.fragment_size() <= SMALL_BYTES);
        assert!(small, "a disk to fill is needed: allow `unshare -m` or `unshare -rm`, or have a small /dev/shm");
        let folder = TempDir::new_in("/dev/shm").expect("/dev/shm is writable");
        reaper::remove_at_end(folder.path());
        Self { folder: folder.path().to_owned(), _place: Place::Shared { _folder: folder } }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Fills the disk but for [`LEFT_BYTES`].
    fn fill(&self) {
        let disk = statvfs(&self.folder).expect("a file system");
        let free = disk.blocks_available() * disk.fragment_size();
        let ballast = vec![7; free.saturating_sub(LEFT_BYTES) as usize];
        fs::write(self.ballast(), ballast).expect("there is room");
    }

    /// Fills the disk to the last byte.
    fn fill_up(&self) {
        let mut ballast = fs::OpenOptions::new().append(true).open(self.ballast()).expect("it is there");
        let mut bytes = &[7; 64 << 10][..];
        while !bytes.is_empty() {
            match ballast.write(bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => bytes = &bytes[bytes.len() / 2 + 1..],
                Err(error) => panic!("filling the disk: {error}"),
            }
        }
    }

    fn clear(&self) {
        fs::remove_file(self.ballast()).expect("it is there");
    }

    fn backup(&self, ground: &Ground, name: &str) -> Backup {
        let path = self.folder.join(name);
        let backup = Backup::of(ground.kafka, &[&ground.large]).path(path.to_str().expect("UTF-8"));
        let backup = backup.sink("roll_bytes", "18MiB").sink("roll_interval", "1s").sink("shutdown_timeout", "2s");
        backup.sink("memory_bytes", "32MiB")
    }
}

/// Waits until `/readyz` says that the topic has no space.
fn wait_until_told(agent: &mut Agent, topic: &str) {
    let mut said = Vec::new();
    wait_within(PATIENCE, "/readyz tells of the full disk", || {
        assert!(agent.runs(), "the agent ended");
        let ready = listen(agent, &mut said);
        let told = said.iter().any(|line| line.contains("No space left") && line.contains(topic));
        (!ready && told).then_some(())
    });
}

/// Asserts that nothing but the archive is left on the disk.
fn assert_tidy(path: &Path) {
    let left: Vec<_> = fs::read_dir(path.join(".tmp")).into_iter().flatten().collect();
    assert!(left.is_empty(), "temporary files are left: {left:?}");
}

#[test]
fn a_full_disk_is_told_and_what_waited_is_written_when_there_is_room() {
    let (ground, disk) = (Ground::shared(), Disk::new());
    let log = ground.kafka.log_bytes(&ground.large, 0);
    disk.fill();
    let backup = disk.backup(ground, "for-a-while");
    let mut agent = backup.run();
    wait_until_told(&mut agent, &ground.large);
    assert_prefix("while the disk is full", &backup.chain(&ground.large, 0).bytes(), &log);
    disk.clear();
    wait_within(PATIENCE, "it goes on by itself", || {
        assert!(agent.runs(), "the agent ended");
        (listen(&agent, &mut Vec::new()) && archived(&backup, &ground.large) >= log.len() as u64).then_some(())
    });
    ground.assert_small(&agent);
    agent.terminate();
    assert_same("after the disk was full", &backup.chain(&ground.large, 0).bytes(), &log);
    let _ = backup.command("verify", &["--deep"]).ok();
    assert_tidy(Path::new(backup.archive()));
}

#[test]
fn an_agent_told_to_end_on_a_full_disk_says_what_is_not_durable() {
    let (ground, disk) = (Ground::shared(), Disk::new());
    let log = ground.kafka.log_bytes(&ground.large, 0);
    disk.fill();
    let backup = disk.backup(ground, "for-ever");
    let mut agent = backup.run();
    wait_until_told(&mut agent, &ground.large);
    ground.assert_small(&agent);
    disk.fill_up();
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait().code(), Some(1), "an agent that could not write all ends so");
    let printed = agent.log();
    let last = printed.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains("durable") && last.contains(&ground.large), "{last}");
    assert_prefix("on a full disk", &backup.chain(&ground.large, 0).bytes(), &log);
    disk.clear();
    let _ = backup.backup().ok();
    assert_same("after the disk was full", &backup.chain(&ground.large, 0).bytes(), &log);
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn an_agent_that_starts_on_a_full_disk_says_so_and_begins_when_there_is_room() {
    let (ground, disk) = (Ground::shared(), Disk::new());
    disk.fill();
    disk.fill_up();
    let backup = disk.backup(ground, "from-the-start");
    let mut agent = backup.run();
    let mut said = Vec::new();
    wait_within(PATIENCE, "/readyz tells of the full disk", || {
        assert!(agent.runs(), "the agent ended");
        let ready = listen(&agent, &mut said);
        (!ready && said.iter().any(|line| line.contains("No space left"))).then_some(())
    });
    disk.clear();
    let log = ground.kafka.log_bytes(&ground.large, 0);
    wait_within(PATIENCE, "it begins by itself", || {
        assert!(agent.runs(), "the agent ended");
        (listen(&agent, &mut Vec::new()) && archived(&backup, &ground.large) >= log.len() as u64).then_some(())
    });
    agent.terminate();
    assert_same("after the disk was full", &backup.chain(&ground.large, 0).bytes(), &log);
}
