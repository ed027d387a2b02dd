#!/usr/bin/env python3
"""Runs scripts/slurm on a real Slurm: an array job of features whose tasks are killed, lose their node, meet the time
limit and fail for a while, and the head that trains after it; the store equals a single process's row for row.

Needs root and Debian's slurmctld, slurmd, slurm-client and munge, and says so and skips where they are not or cannot be
started; target/release/extractor and head-trainer (make build) and ONNX Runtime (make runtime). `HEADSTART_EXTRACTOR`
and `HEADSTART_HEAD_TRAINER` name other binaries, `HEADSTART_PEERS_VENV` another environment folder. With
`HEADSTART_TEST_DATA` on 2,400 photos and a MobileNetV2, else on the sample set and an untrained ResNet50.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from slurm_cluster import Cluster, Unavailable, check, pending, status, stopped, wait_for
from test_read_store import PYTHON, ROOT, SCRIPTS, make_environment, run

EXTRACTOR = Path(os.environ.get("HEADSTART_EXTRACTOR", ROOT / "target" / "release" / "extractor"))
HEAD_TRAINER = Path(os.environ.get("HEADSTART_HEAD_TRAINER", ROOT / "target" / "release" / "head-trainer"))
TEST_DATA = os.environ.get("HEADSTART_TEST_DATA")
SUBMIT = SCRIPTS / "slurm" / "submit"
PARTS = 4
STARTED = time.monotonic()

# Stands in for the extractor in the jobs and becomes it; before that it does what a test wants of the part: `hold-I`
# stops it (SIGSTOP) at its first start and leaves its process id, `exit-I` ends its next start with that code.
STAND_IN = """#!/usr/bin/env bash
part=${{SLURM_ARRAY_TASK_ID:-none}}
if [ "$1" = features ] && [ -e "{wishes}/exit-$part" ]; then
  code=$(cat "{wishes}/exit-$part")
  rm "{wishes}/exit-$part"
  echo "a stand-in for the extractor exits $code" >&2
  exit "$code"
fi
if [ "$1" = features ] && [ -e "{wishes}/hold-$part" ]; then
  mv "{wishes}/hold-$part" "{wishes}/held-$part"
  echo $$ > "{wishes}/pid-$part.new"
  mv "{wishes}/pid-$part.new" "{wishes}/pid-$part"
  kill -STOP $$
fi
exec "{extractor}" "$@"
"""


def log(text):
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def show(path):
    for line in path.read_text(errors="replace").splitlines():
        print(f"            | {line}", flush=True)


class OnSlurm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        make_environment()
        folder = tempfile.TemporaryDirectory(prefix="headstart-slurm-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        if TEST_DATA:
            cls.data, cls.backbone = Path(TEST_DATA) / "pets", Path(TEST_DATA) / "models" / "mobilenetv2_100.onnx"
            # 16 maps of 4x4x1280 in f32 a shard.
            cls.features_args = f"--batch-size 16 --shard-bytes {16 * 4 * 4 * 1280 * 4}"
        else:
            cls.data, cls.backbone = cls.folder / "sample", cls.folder / "untrained.onnx"
            run(EXTRACTOR, "sample", cls.data, "--per-class", "100", "--json")
            run(EXTRACTOR, "backbone", "seed", "--size", "64", "--out", cls.backbone, "--json")
            cls.features_args = f"--batch-size 4 --shard-bytes {4 * 2 * 2 * 2048 * 4}"
        try:
            cls.cluster = Cluster(cls.folder / "slurm")
        except Unavailable as reason:
            print(f"skipped: {reason}")
            raise unittest.SkipTest(str(reason)) from reason
        cls.addClassCleanup(cls.cluster.close)
        log(f"Slurm is up: {cls.cluster.command('sbatch', '--version').strip()}, 4 nodes of one core")
        cls.alone = cls.features_alone(cls.folder / "alone")

    @classmethod
    def features_alone(cls, results):
        """The features and the head of a single process, without Slurm."""
        index = results / "index.arrow"
        features = run(
            EXTRACTOR, "features", cls.data, "--backbone", cls.backbone, "--store", results / "features",
            "--index", index, "--data-dir", ROOT / "data", "--shard", "0/1", "--json",
        )
        head = run(
            HEAD_TRAINER, "train", "--store", features["store"], "--index", index, "--data-dir", results, "--json"
        )
        log(f"a single process: {features['rows']['new']} rows in {features['extract_secs']:.1f} s")
        return features | {"head": head}

    def setUp(self):
        print(f"---- {self.id().rsplit('.', 1)[-1].removeprefix('test_').replace('_', ' ')}", flush=True)
        self.results = self.folder / self.id().rsplit(".", 1)[-1]
        self.wishes = self.results / "wishes"
        self.wishes.mkdir(parents=True)
        (self.results / "runtime").symlink_to(ROOT / "data" / "runtime")
        stand_in = self.results / "extractor"
        stand_in.write_text(STAND_IN.format(wishes=self.wishes, extractor=EXTRACTOR))
        stand_in.chmod(0o755)
        self.env = self.cluster.env | {
            "DATA": str(self.data), "BACKBONE": str(self.backbone), "HEADSTART_DATA_DIR": str(self.results),
            "PARTS": str(PARTS), "CPUS": "1", "MEM": "2G", "HEAD_CPUS": "1", "HEAD_MEM": "2G", "EP": "cpu",
            "FEATURES_ARGS": self.features_args, "HEADSTART_EXTRACTOR": str(stand_in),
            "HEADSTART_HEAD_TRAINER": str(HEAD_TRAINER),
        }

    def tearDown(self):
        """After a failure, everything that Slurm and the jobs said."""
        result = self._outcome.result
        if any(test is self for test, _ in [*result.failures, *result.errors]):
            print(self.cluster.command("squeue", "--states=all"))
            for path in sorted([*self.results.glob("slurm/*/*.log"), self.cluster.folder / "slurmctld.log"]):
                print(path)
                show(path)

    def submit(self, *words, **variables):
        """Submits; the ids of the jobs by name."""
        result = subprocess.run(
            [SUBMIT, *words], env=self.env | variables, cwd=self.folder, capture_output=True, text=True, check=False
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        lines = result.stdout.splitlines()
        for line in lines:
            log(line.replace(str(self.folder), "."))
        jobs = dict(line.split(": job ", 1) for line in lines)
        return {name: rest.split(",")[0] for name, rest in jobs.items()}

    def log_of(self, name):
        (path,) = self.results.glob(f"slurm/*/{name}.log")
        return path

    def wait_end(self, job):
        """Waits until a job is over and off its node; its state."""

        def over():
            state = self.cluster.job(job)["JobState"]
            return state if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING") else None

        return wait_for(f"job {job} to end", over)

    def held(self, part):
        """The process of a part that was held at its start."""
        file = self.wishes / f"pid-{part}"
        wait_for(f"part {part} to start", file.exists)
        pid = int(file.read_text())
        wait_for(f"part {part} to be held", lambda: stopped(pid))
        return pid

    def shards(self):
        return len(list(self.results.glob("features/*/*.arrow")))

    def into_the_middle(self, part):
        """Lets a held part go on until it has published something, and holds it there."""
        pid, before = self.held(part), self.shards()
        os.kill(pid, signal.SIGCONT)
        wait_for(f"a shard of part {part}", lambda: self.shards() > before)
        os.kill(pid, signal.SIGSTOP)
        wait_for(f"part {part} to be held", lambda: stopped(pid) or not status(pid))
        self.assertTrue(stopped(pid), f"part {part} ended before it could be held")
        log(f"part {part} (process {pid}) is held in the middle, {self.shards() - before} of its shards are published")
        return pid

    def check_store_and_head(self):
        """The store is the single process's, row for row, and so is the head."""
        (store,) = (path for path in self.results.glob("features/*") if path.is_dir())
        figures = run(PYTHON, SCRIPTS / "compare_stores.py", store, self.alone["store"])
        log(f"the store and the single process's: {figures}")
        self.assertEqual(figures["rows"][0], self.alone["rows"]["new"])
        (index,) = self.results.glob("indexes/*.arrow")
        inspected = run(EXTRACTOR, "store", "inspect", store, "--index", index, "--json")  # else exit 4
        log(f"store inspect --index: {({k: v for k, v in inspected['index'].items() if isinstance(v, int)})}")
        (record,) = self.results.glob("runs/*/run.json")
        metrics = json.loads(record.read_text())["metrics"]
        alone = json.loads((Path(self.alone["head"]["run"]) / "run.json").read_text())["metrics"]
        for side, figures in metrics.items():
            log(f"the head, {side}: accuracy {figures['accuracy']:.4f}; single process: {alone[side]['accuracy']:.4f}")
        self.assertEqual(metrics, alone)

    def test_1_tasks_that_are_killed_and_the_head_after_them(self):
        for part in range(PARTS):
            (self.wishes / f"hold-{part}").touch()
        (self.wishes / "exit-3").write_text("75")
        jobs = self.submit()
        array = jobs["features-%a"]
        pids = [self.into_the_middle(part) for part in range(PARTS)]
        self.assertEqual(self.cluster.job(f"{array}_3")["Restarts"], "1")
        log("part 3 exited 75 before, and was queued again")

        os.kill(pids[0], signal.SIGKILL)
        log("part 0: its process was killed (SIGKILL)")

        node = self.cluster.job(f"{array}_1")["NodeList"]
        self.cluster.cut_power(node, pids[1])
        self.cluster.command("scontrol", "update", f"nodename={node}", "state=down", "reason=power")
        log(f"part 1: node {node} lost its power and was marked DOWN")

        self.cluster.command("scontrol", "update", f"jobid={array}_2", "timelimit=1")
        wait_for("the time limit's signal", lambda: pending(pids[2], signal.SIGTERM))
        log("part 2: the time limit's SIGTERM is there, passed on by the batch script")
        self.cluster.command("scontrol", "update", f"jobid={array}_2", "timelimit=60")  # enough for the next start
        os.kill(pids[2], signal.SIGCONT)
        os.kill(pids[3], signal.SIGCONT)

        state = self.wait_end(jobs["train-head"])
        for part in range(PARTS):
            log(f"the log of part {part}:")
            show(self.log_of(f"features-{part}"))
        log("the log of the head:")
        show(self.log_of("train-head"))
        self.assertEqual(state, "COMPLETED")
        for part, says in enumerate(["was killed", "is done", "was stopped, what was complete is kept", "exit 75"]):
            task = self.cluster.job(f"{array}_{part}")
            self.assertEqual((task["JobState"], task["Restarts"]), ("COMPLETED", "1"), f"part {part}")
            self.assertIn(says, self.log_of(f"features-{part}").read_text())
        self.check_store_and_head()

    def test_2_a_part_that_fails_for_good_and_is_run_again(self):
        (self.wishes / "exit-2").write_text("1")
        self.submit("features", "--index-job")
        jobs = self.submit("train-head")  # a call of its own, as make does it
        self.assertEqual(self.wait_end(jobs["train-head"]), "FAILED")
        log("the log of the head:")
        show(self.log_of("train-head"))
        self.assertIn("parts to run again: 2 ", self.log_of("train-head").read_text())
        jobs = self.submit("--array", "2")
        self.assertEqual(self.wait_end(jobs["train-head"]), "COMPLETED")
        self.check_store_and_head()

        lines = self.results / "sweep.txt"
        lines.write_text("# penalties\n--solver lbfgs --l2 0.03,0.3\n\n--solver adam --seeds 2\n")
        jobs = self.submit("sweep", SWEEP=str(lines))
        self.assertEqual(self.wait_end(jobs["sweep"]), "COMPLETED")
        log("the log of the sweep's comparison:")
        show(self.log_of("sweep"))
        self.assertEqual(len(list(self.results.glob("runs/*/run.json"))), 3)
        self.assertEqual(len(list(self.results.glob("sweeps/*/sweep.json"))), 2)

    def test_3_a_task_that_is_cancelled_stays_so(self):
        (self.wishes / "hold-1").touch()
        jobs = self.submit("features", "--array", "1")
        pid, task = self.into_the_middle(1), f"{jobs['features-%a']}_1"
        self.cluster.command("scancel", task)
        log("part 1: cancelled by scancel, which lets it go on to end")
        self.assertEqual(self.wait_end(task), "CANCELLED")
        self.assertEqual(self.cluster.job(task)["Restarts"], "0")
        show(self.log_of("features-1"))

    def test_4_a_part_that_never_gets_better_gives_up(self):
        (self.wishes / "exit-0").write_text("75")
        jobs = self.submit("features", "--array", "0", RETRIES="0")
        self.assertEqual(self.wait_end(f"{jobs['features-%a']}_0"), "FAILED")
        show(self.log_of("features-0"))

    def test_5_a_dry_run_submits_nothing(self):
        before = self.cluster.command("squeue", "--states=all", "--noheader")
        result = subprocess.run([SUBMIT, "--dry-run"], env=self.env, capture_output=True, text=True, check=True)
        print(result.stdout)
        self.assertEqual(result.stdout.count("sbatch --parsable"), 2)
        self.assertEqual(self.cluster.command("squeue", "--states=all", "--noheader"), before)
        self.assertEqual(list(self.results.glob("indexes/*")), [])


class Scripts(unittest.TestCase):
    def test_0_shellcheck(self):
        if not shutil.which("shellcheck"):
            self.skipTest("no shellcheck (hint: apt-get install shellcheck)")
        scripts = sorted((SCRIPTS / "slurm").iterdir())
        result = subprocess.run(["shellcheck", "-x", *scripts], capture_output=True, text=True, check=False)
        self.assertEqual(result.stdout, "")


if __name__ == "__main__":
    try:
        check()
        # What ends the test ends the cluster.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        unittest.main()
    except Unavailable as reason:
        print(f"skipped: {reason}")
