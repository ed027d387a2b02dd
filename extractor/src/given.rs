//! What this process was given of the machine: threads and memory, by a container's or a job's
//! limits rather than by what the machine has.
//!
//! Must not know what they are used for.

use std::fs;
use std::path::{Path, PathBuf};

/// Threads to use: as many as the processor affinity and the control group's quota let run at once,
/// and no more than Slurm gave the task (`SLURM_CPUS_PER_TASK`), which on a cluster without control
/// groups nothing else says.
pub fn threads() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    at_most(available, number(&variable("SLURM_CPUS_PER_TASK")))
}

/// Memory that this process may use, in bytes: the smallest of the control groups' limits (versions
/// 1 and 2), Slurm's (`SLURM_MEM_PER_NODE`, `SLURM_MEM_PER_CPU`, in MiB) and the machine's memory.
/// Nothing where none of them is known.
pub fn memory_bytes() -> Option<u64> {
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = [
        group_limit(&group, Path::new("/sys/fs/cgroup")),
        slurm_limit(&variable, threads() as u64),
        machine(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
    ];
    limits.into_iter().flatten().min()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(text: &Option<String>) -> Option<u64> {
    text.as_ref()?.trim().parse().ok()
}

fn at_most(available: usize, given: Option<u64>) -> usize {
    let given = given.and_then(|n| usize::try_from(n).ok());
    given
        .filter(|n| *n > 0)
        .map_or(available, |n| n.min(available))
}

fn slurm_limit(variable: &impl Fn(&str) -> Option<String>, threads: u64) -> Option<u64> {
    let mebibytes = |n: u64| n.checked_mul(1 << 20);
    // 0 stands for all of the node.
    let number = |name| number(&variable(name)).filter(|n| *n > 0);
    match (number("SLURM_MEM_PER_NODE"), number("SLURM_MEM_PER_CPU")) {
        (Some(node), _) => mebibytes(node),
        (None, Some(cpu)) => {
            let cpus = number("SLURM_CPUS_PER_TASK").unwrap_or(threads);
            cpu.checked_mul(cpus).and_then(mebibytes)
        }
        (None, None) => None,
    }
}

/// The smallest limit of the groups that `/proc/self/cgroup` names and of those above them. In a
/// container the files at the root are the container's own, whatever the names say.
fn group_limit(cgroup: &str, root: &Path) -> Option<u64> {
    let groups = cgroup.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/');
        match controllers {
            "" => Some((root.to_owned(), path, "memory.max")),
            c if c.split(',').any(|c| c == "memory") => {
                Some((root.join("memory"), path, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    let limits = groups.flat_map(|(base, path, file)| {
        let mut folder: PathBuf = base.join(path);
        let mut limits = Vec::new();
        while folder.starts_with(&base) {
            // `max`, or a number beyond all memory, is no limit; the machine's is smaller.
            let text = fs::read_to_string(folder.join(file)).ok();
            limits.extend(number(&text));
            if !folder.pop() {
                break;
            }
        }
        limits
    });
    limits.min()
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurm_says_less_than_the_machine_has_and_never_more() {
        assert_eq!(at_most(8, None), 8);
        assert_eq!(at_most(8, Some(3)), 3);
        assert_eq!(at_most(2, Some(16)), 2);
        assert_eq!(at_most(2, Some(0)), 2);
        let limit = |variables: &[(&str, &str)]| {
            let get = |name: &str| {
                let found = variables.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            slurm_limit(&get, 4)
        };
        assert_eq!(limit(&[("SLURM_MEM_PER_NODE", "2000")]), Some(2000 << 20));
        assert_eq!(limit(&[("SLURM_MEM_PER_CPU", "500")]), Some(2000 << 20));
        let cpus = ("SLURM_CPUS_PER_TASK", "3");
        assert_eq!(
            limit(&[("SLURM_MEM_PER_CPU", "500"), cpus]),
            Some(1500 << 20)
        );
        assert_eq!(limit(&[("SLURM_MEM_PER_NODE", "0")]), None);
        assert_eq!(limit(&[("SLURM_MEM_PER_NODE", "nonsense")]), None);
    }

    #[test]
    fn the_smallest_limit_of_all_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("slurm/job_7/memory.max", "4096000\n");
        put("slurm/job_7/step/memory.max", "max\n");
        put("slurm/memory.max", "8192000\n");
        let v2 = |path: &str| group_limit(&format!("0::{path}\n"), root.path());
        assert_eq!(v2("/slurm/job_7/step"), Some(4_096_000));
        assert_eq!(v2("/slurm"), Some(8_192_000));
        assert_eq!(v2("/elsewhere"), None);
        put("memory/docker/x/memory.limit_in_bytes", "1024\n");
        let v1 = "5:cpu,cpuacct:/x\n4:memory:/docker/x\n";
        assert_eq!(group_limit(v1, root.path()), Some(1024));
        // In a container the group's own files lie at the root.
        put("memory.max", "2048\n");
        assert_eq!(v2("/../../elsewhere"), Some(2048));
    }

    #[test]
    fn the_machine_has_memory() {
        assert_eq!(
            machine("MemTotal:       24 kB\nMemFree: 1 kB\n"),
            Some(24 << 10)
        );
        assert_eq!(machine("nothing"), None);
        assert!(threads() > 0);
        #[cfg(target_os = "linux")]
        assert!(memory_bytes().unwrap() > 1 << 20);
    }
}
