//! Ends what the tests started, whatever happens to the tests.
//!
//! One small `sh` reads process ids from a pipe that this process holds. When the pipe closes (the tests ended, were
//! interrupted, or killed with SIGKILL) it kills every process that is still on its list and removes the folders
//! that it was given.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

const SCRIPT: &str = r#"
live=
folders=$(mktemp)
while read -r verb what; do
    case $verb in
    +) live="$live $what" ;;
    -) kept=; for pid in $live; do [ "$pid" = "$what" ] || kept="$kept $pid"; done; live=$kept ;;
    rm) echo "$what" >> "$folders" ;;
    esac
done
if [ -n "$live" ]; then kill -9 $live; sleep 0.3; fi
while read -r folder; do rm -rf "$folder"; done < "$folders"
rm -f "$folders"
"#;

fn tell(line: &str) {
    static PIPE: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
        let mut sh = Command::new("sh");
        // A group of its own: Ctrl-C at the terminal must end the tests, and not the one who cleans up after them.
        sh.args(["-c", SCRIPT]).process_group(0);
        sh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Mutex::new(sh.spawn().expect("sh starts").stdin.take().expect("stdin is a pipe"))
    });
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{line}").expect("the reaper lives as long as the tests");
}

/// A process that does not outlive the tests; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command` in a process group of its own.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        tell(&format!("+ {}", child.id()));
        Ok(Self(child))
    }

    /// Returns the process.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        tell(&format!("- {}", self.0.id()));
    }
}

/// Has `folder` removed when the tests have ended.
pub(crate) fn remove_at_end(folder: &Path) {
    tell(&format!("rm {}", folder.display()));
}
