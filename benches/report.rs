//! The tables: every run, medians, and how they stand against what is promised. Markdown, to be kept as it is.

use std::fmt;
use std::fs;

use crate::measure::Usage;
use crate::workload::{LARGE, SMALL};

/// Peak memory of the agent on a folder.
const PEAK_BOUND_MIB: f64 = 150.0;

/// Who read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    AgentFolder,
    AgentMemory,
    Poll,
    Batch,
    Copy,
}

impl Contender {
    const ALL: [Self; 5] = [Self::AgentFolder, Self::AgentMemory, Self::Poll, Self::Batch, Self::Copy];

    fn name(self) -> &'static str {
        match self {
            Self::AgentFolder => "agent, folder",
            Self::AgentMemory => "agent, memory",
            Self::Poll => "rdkafka poll",
            Self::Batch => "rdkafka batch",
            Self::Copy => "cp",
        }
    }
}

/// One run of one contender.
pub(crate) struct Run {
    pub(crate) shape: &'static str,
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    pub(crate) usage: Usage,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | {} | {} |", self.shape, self.contender.name(), self.round, columns(&self.usage))
    }
}

fn columns(usage: &Usage) -> String {
    let seconds = [usage.user, usage.system, usage.cpu(), usage.wall].map(|time| format!("{:.3}", time.as_secs_f64()));
    format!("{} | {:.0}", seconds.join(" | "), mib(usage))
}

fn mib(usage: &Usage) -> f64 {
    usage.peak_kib as f64 / 1024.0
}

/// Says on what it runs, and begins the table of runs.
pub(crate) fn print_machine(percent: u64) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{} × {}, {} of memory, Linux {}, {percent} % of the records",
        cores,
        value(&cpu, "model name"),
        value(&memory, "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim()
    );
    println!(
        "\n| records | contender | round | user s | sys s | cpu s | wall s | peak MiB |\n|---|---|---|---|---|---|---|---|"
    );
}

/// Prints medians and bounds; returns whether every bound holds.
pub(crate) fn print_verdict(runs: &[Run]) -> bool {
    println!("\nMedians:\n");
    println!("| records | contender | user s | sys s | cpu s | wall s | peak MiB |\n|---|---|---|---|---|---|---|");
    for shape in [SMALL, LARGE] {
        for contender in Contender::ALL {
            if let Some(median) = median(runs, shape, contender) {
                println!("| {shape} | {} | {} |", contender.name(), columns(&median));
            }
        }
    }
    println!("\n| promise | bound | measured | |\n|---|---|---|---|");
    let kept: Vec<bool> = promises(runs).iter().map(Promise::print).collect();
    kept.iter().all(|kept| *kept)
}

struct Promise {
    name: &'static str,
    bound: f64,
    measured: f64,
}

impl Promise {
    fn print(&self) -> bool {
        let kept = self.measured <= self.bound;
        let verdict = if kept { "kept" } else { "MISSED" };
        println!("| {} | {} | {:.3} | {verdict} |", self.name, self.bound, self.measured);
        kept
    }
}

fn promises(runs: &[Run]) -> [Promise; 4] {
    let cpu = |shape, contender| median(runs, shape, contender).map_or(f64::NAN, |usage| usage.cpu().as_secs_f64());
    let consumer = |shape| cpu(shape, Contender::Poll).min(cpu(shape, Contender::Batch));
    let on_folder = runs.iter().filter(|run| run.contender == Contender::AgentFolder);
    [
        Promise {
            name: "100 B to a folder / fastest consumer, CPU",
            bound: 0.15,
            measured: cpu(SMALL, Contender::AgentFolder) / consumer(SMALL),
        },
        Promise {
            name: "1 KB to memory / fastest consumer, CPU",
            bound: 0.4,
            measured: cpu(LARGE, Contender::AgentMemory) / consumer(LARGE),
        },
        Promise {
            name: "1 KB to a folder / (fastest consumer + cp), CPU",
            bound: 0.6,
            measured: cpu(LARGE, Contender::AgentFolder) / (consumer(LARGE) + cpu(LARGE, Contender::Copy)),
        },
        Promise {
            name: "peak memory on a folder, MiB",
            bound: PEAK_BOUND_MIB,
            measured: on_folder.map(|run| mib(&run.usage)).fold(0.0, f64::max),
        },
    ]
}

/// Returns the figures of the run whose CPU is the median.
fn median(runs: &[Run], shape: &str, contender: Contender) -> Option<Usage> {
    let mut usages: Vec<Usage> =
        runs.iter().filter(|run| run.shape == shape && run.contender == contender).map(|run| run.usage).collect();
    usages.sort_by_key(Usage::cpu);
    usages.get(usages.len() / 2).copied()
}
