"""A real Slurm of Debian's packages on this host alone: munged, slurmctld and several slurmd, each a node of one core,
in a folder of its own, as root, without systemd, cgroups or anything of a Slurm that may be installed otherwise.

Why it exists: batch scripts are tested by the scheduler that they are for. It must not know what the jobs do.
Standard library only.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ["munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scontrol"]
CONF = """
ClusterName=headstart
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=2
OverTimeLimit=10
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Unavailable(Exception):
    """Why there is no Slurm here."""


def check():
    """Raises `Unavailable` where Slurm cannot be started."""
    if os.geteuid() != 0:
        raise Unavailable("a Slurm of its own needs root")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        raise Unavailable(f"no {', '.join(missing)} (hint: apt-get install slurmctld slurmd slurm-client munge)")


def wait_for(what, ready, limit_secs=300):
    """Polls until `ready` gives something true, and returns it."""
    end = time.monotonic() + limit_secs
    while time.monotonic() < end:
        value = ready()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {limit_secs} s in vain for {what}")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """Nodes n1 to nN. `env` makes Slurm's commands find it."""

    def __init__(self, folder, nodes=4):
        check()
        self.folder = folder
        self.daemons = {}
        for name in ["state", *[f"spool-n{i}" for i in range(1, nodes + 1)]]:
            (folder / name).mkdir(parents=True)
        host, ports = socket.gethostname().split(".")[0], free_ports(nodes + 1)
        lines = [
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i]} CPUs=1 RealMemory=4000 State=UNKNOWN"
            for i in range(1, nodes + 1)
        ]
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=host, ports=ports, folder=folder, nodes="\n".join(lines)))
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SQUEUE", "SCONTROL"))}
        self.env = outer | {"SLURM_CONF": str(conf)}
        # Ends everything once this process is gone, whatever ended it: its standard input is closed then.
        self.guard = subprocess.Popen([sys.executable, __file__, folder], stdin=subprocess.PIPE, start_new_session=True)
        atexit.register(self.close)
        try:
            self._start(nodes)
        except BaseException:
            self.close()
            raise

    def _start(self, nodes):
        key, munge = self.folder / "munge.key", self.folder / "munge.socket"
        subprocess.run(["mungekey", "--create", "--keyfile", key], check=True, capture_output=True)
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={munge}", f"--key-file={key}",
            f"--pid-file={self.folder}/munged.pid", f"--seed-file={self.folder}/munge.seed",
        )
        self._wait_up("munged", munge.exists)
        self._daemon("slurmctld", "-D")
        for i in range(1, nodes + 1):
            self._daemon(f"n{i}", "-D", "-N", f"n{i}", program="slurmd")
        self._wait_up("slurmctld and its nodes", lambda: self._states().count("idle") == nodes)

    def _states(self):
        sinfo = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%T"], env=self.env, capture_output=True, text=True, check=False
        )
        return sinfo.stdout.split()

    def _wait_up(self, what, ready):
        def up():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead:
                raise Unavailable(f"{dead[0]} does not start: {self.tail(dead[0])}")
            return ready()

        try:
            wait_for(what, up, 60)
        except AssertionError as error:
            raise Unavailable(str(error)) from error

    def tail(self, daemon):
        return " | ".join((self.folder / f"{daemon}.err").read_text(errors="replace").splitlines()[-3:])

    def _daemon(self, name, *flags, program=None):
        command = [program or name, *flags]
        with (self.folder / f"{name}.err").open("wb") as err:
            self.daemons[name] = subprocess.Popen(
                command, env=self.env, stdout=err, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def command(self, *words, **more):
        """The output of one of Slurm's commands."""
        result = subprocess.run([str(w) for w in words], env=self.env, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, words))} exited {result.returncode}: {result.stderr}")
        return result.stdout

    def job(self, job):
        """What scontrol says of a job or an array's task, by field."""
        line = self.command("scontrol", "--oneliner", "show", "job", job).splitlines()[0]
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def cut_power(self, node, process):
        """Ends `node` and all of the job that `process` is of, at once and without a word to anyone."""
        doomed = [process]
        while Path(f"/proc/{doomed[-1]}/comm").read_text().strip() not in ("slurmstepd", "slurmd"):
            doomed.append(parent(doomed[-1]))
        daemon = self.daemons.pop(node)
        for pid in [daemon.pid, *reversed(doomed)]:
            os.kill(pid, signal.SIGKILL)
        daemon.wait()

    def close(self):
        """Ends everything: the daemons, and whatever was started by them."""
        self.guard.stdin.close()
        self.guard.wait()
        for daemon in self.daemons.values():
            daemon.wait()


def end_all(folder):
    """Ends every process whose environment names the cluster in `folder`."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    for _ in range(100):
        left = [pid for pid in processes() if mark in environment(pid)]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)


def processes():
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def environment(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def status(pid):
    """A process's /proc/PID/status, by field; empty once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def parent(pid):
    return int(status(pid)["PPid"])


def stopped(pid):
    return status(pid).get("State", "").startswith("T")


def pending(pid, number):
    """Whether a signal waits for the process to go on."""
    return bool(int(status(pid).get("ShdPnd", "0"), 16) >> (number - 1) & 1)


if __name__ == "__main__":
    # Apart from what stops its parent.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.read()
    end_all(sys.argv[1])
