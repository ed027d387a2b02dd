"""This project among the contestants of scripts/bench_features.py: `extractor features`, run as a user would.

The first contestant must work, and is what the others of this project are compared with; those of the others that do
not work here are left out, with the reason. It must not know the other libraries, nor what is done with the figures.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_head import ROOT


class BenchFailure(Exception):
    """What went wrong and what to do about it, in one line."""


def log(line):
    print(line, file=sys.stderr, flush=True)


def run(*command):
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise BenchFailure(f"`{shlex.join(command)}` exited {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Ours:
    """`extractor features` with some flags and a backbone; `flags` begin with the provider, --ep NAME."""

    def __init__(self, key, name, options, backbone, flags):
        self.key, self.name, self.provider = key, name, flags[1]
        self.start = [options.extractor, "features"]
        self.flags = ["--backbone", backbone, "--threads", options.threads, *flags, *shlex.split(options.ours_args)]

    def once(self, images, place):
        """What one command told with --json, and `secs` and `peak_bytes` of its process."""
        command = [*self.start, images, *self.flags, "--store", place / "store", "--index", place / "index.arrow"]
        command = [str(part) for part in [*command, "--json", "--quiet"]]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT)
            _, status, usage = os.wait4(process.pid, 0)  # alone tells the memory of this one process
            secs = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            for file in (out, err):
                file.seek(0)
            if process.returncode != 0:
                raise BenchFailure(f"`{shlex.join(command)}` exited {process.returncode}: {err.read().strip()}")
            unit = 1 if sys.platform == "darwin" else 1024
            return json.loads(out.read()) | {"secs": secs, "peak_bytes": usage.ru_maxrss * unit}


def contestants_of_ours(options, backbone):
    """All that this binary can run; on CUDA the library is fetched first, unless ORT_DYLIB_PATH names one."""
    if options.device == "cuda":
        log("looking for ONNX Runtime with CUDA (256 MB, fetched once)")
        run(options.extractor, "runtime", "fetch", "--flavour", "cuda")
        flags = {"fp32": ["--ep", "cuda"], "tf32": ["--ep", "cuda", "--precision", "tf32"]}
        return [Ours(f"ours-cuda-{name}", f"ours, CUDA {name}", options, backbone, flags[name]) for name in flags]
    found = [Ours("ours", "ours", options, backbone, ["--ep", "cpu"])]
    if "openvino" in run(options.extractor, "features", "--help"):
        try:
            run(options.extractor, "runtime", "fetch", "--flavour", "openvino")
        except BenchFailure as error:
            log(f"note: no OpenVINO of ours: {error}")
        else:
            for precision in ["fp32", "bf16"]:
                flags = ["--ep", "openvino", "--precision", precision]
                name = f"ours, OpenVINO {precision}"
                found.append(Ours(f"ours-openvino-{precision}", name, options, backbone, flags))
    if options.int8:
        found.append(Ours("ours-int8", "ours, int8", options, options.int8, ["--ep", "cpu"]))
    return found


def tried(ours, folder, options):
    """Those that work on a few drawings, what the first one told, and why the others are left out."""
    run(options.extractor, "sample", folder / "tried", "--per-class", 4)
    working, first, left_out = [], None, []
    for one in ours:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            try:
                told = one.once(folder / "tried", Path(place))
                if one.provider not in told["provider"].lower():
                    raise BenchFailure(f"`extractor features --ep {one.provider}` ran on {told['provider']}")
            except BenchFailure as error:
                if one is ours[0]:
                    raise
                left_out.append(f"{one.name}: {error}")
                continue
        first = first or told
        working.append(one)
    return working, first, left_out
