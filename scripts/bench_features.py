#!/usr/bin/env python3
"""Times `extractor features` beside the raw engine, Keras, PyTorch and OpenVINO, all in one run on this machine.

    make bench                        or, after make build and make runtime:
    python3 scripts/bench_features.py [--rounds 5] [--images 1024] [--peers raw,keras,torch,openvino] [--threads 2]
    make bench BENCH_ARGS="--device cuda"                on an NVIDIA GPU, beside PyTorch

Every round runs each contestant once over the same JPEG files or, where it is an engine alone, over the input that they
come to, held in memory; one after the other, every second round the other way round. Two sets: the files as they are
(180 x 180 photos of `HEADSTART_TEST_DATA`, else drawings of `extractor sample`, or those of --data), and the same
enlarged to 500 x 375. ResNet50 at 100 x 100, batches of 64, as many threads as cores. Told are medians over the rounds.

Of this project it runs the command as a user would, each time into a fresh store on the disk: its rate is that of the
extraction, from JPEG to file, as the peers' rates leave out their start, too; the time of the whole command and of a
second one, which finds all in the store, stand below the table. Then the goals, as ratios.

With --device cuda this project runs on an NVIDIA GPU, in fp32 and TF32 (ONNX Runtime with CUDA is fetched; the driver,
CUDA and cuDNN must be there), and nothing but PyTorch beside it: its engine alone, input and features in pinned memory
of the host, in fp32, TF32 and fp16 autocast, and from the files, with a DataLoader of as many workers as threads
(which hand over batches in /dev/shm: a container needs some 16 MB of it a thread, Docker's --shm-size).

The raw engine lives in .venv/peers, the other peers in .venv/bench, each made on the first run (PyTorch's wheel brings
CUDA along: about 3 GB) unless --bench-python names another Python; --peers leaves some out. Results go to stdout
(--markdown: as Markdown) and, as JSON, to data/bench. Exit code 0: measured; 1: failed, or a goal was missed and
--check is given; 2: bad arguments.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import bench_features_table as table
from bench_features_ours import BenchFailure, contestants_of_ours, log, run, tried
from bench_features_table import END_TO_END, ENGINE_ONLY
from bench_head import ROOT, Contestant, environment_of, environment_python
from test_read_store import PYTHON, make_environment

PEERS = Path(__file__).with_name("bench_features_peers.py")
BATCH, SIDE, MAP = 64, 100, [4, 4, 2048]
INSTRUCTIONS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "i8mm", "bf16", "sve"]
LIBRARIES = ["raw", "keras", "torch", "openvino"]
OF_DEVICE = {"cpu": LIBRARIES, "cuda": ["torch"]}
NAMES = {
    "raw": "ONNX Runtime alone",
    "raw-split": "ONNX Runtime alone, a session a core",
    "torch eager": "PyTorch, channels last",
    "torch frozen": "PyTorch, frozen",
    "torch bf16": "PyTorch, bf16 autocast",
    "torch files": "PyTorch, frozen, DataLoader",
    "torch files bf16": "PyTorch, bf16 autocast, DataLoader",
    "torch cuda fp32": "PyTorch on CUDA, fp32",
    "torch cuda tf32": "PyTorch on CUDA, TF32",
    "torch cuda fp16": "PyTorch on CUDA, fp16 autocast",
    "torch cuda files tf32": "PyTorch on CUDA, TF32, DataLoader",
    "torch cuda files fp16": "PyTorch on CUDA, fp16 autocast, DataLoader",
    "openvino f32": "OpenVINO alone, fp32",
    "openvino bf16": "OpenVINO alone, bf16",
}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=OF_DEVICE, default="cpu", help="where networks run [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--peers", metavar="LIST", help=f"which of {','.join(LIBRARIES)} to compare with [default: all; on CUDA torch]"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="JPEG files, one sub-folder a class")
    parser.add_argument("--backbone", type=Path, metavar="FILE", help="a ResNet50 [default: an untrained one is made]")
    parser.add_argument("--int8", type=Path, metavar="FILE", help="the same quantised, to be run beside it")
    parser.add_argument("--ours-args", default="", metavar="FLAGS", help="more flags for `extractor features`")
    parser.add_argument("--no-large", action="store_true", help="leave out the enlarged files")
    parser.add_argument(
        "--extractor", type=Path, metavar="FILE", default=ROOT / "target" / "release" / "extractor",
        help="the binary [default: target/release/extractor]",
    )
    parser.add_argument(
        "--bench-python", type=Path, metavar="FILE",
        help="a Python that has what the peers but raw need, say torch and torchvision [default: that of .venv/bench]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="[default: data/bench/features-DATE-TIME.json]")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--check", action="store_true", help="exit 1 if a goal is missed")
    options = parser.parse_args(arguments)
    libraries = OF_DEVICE[options.device]
    options.peers = list(libraries) if options.peers is None else [peer for peer in options.peers.split(",") if peer]
    unknown = [peer for peer in options.peers if peer not in libraries]
    if unknown:
        where = " with --device cuda" if options.device == "cuda" else ""
        parser.error(f"--peers: no {unknown[0]}{where} (hint: some of {','.join(libraries)})")
    if options.int8 and options.device == "cuda":
        parser.error("--int8 is for the CPU (hint: leave out --int8 or --device cuda)")
    for name in ["rounds", "images", "threads"]:
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.data and not options.data.is_dir():
        parser.error(f"--data {options.data} is not a folder (hint: one with a sub-folder of JPEG files a class)")
    for name in ["extractor", "backbone", "int8"]:
        path = getattr(options, name)
        if path and not path.is_file():
            parser.error(f"--{name} {path} is not a file" + (" (hint: make build)" if name == "extractor" else ""))
        setattr(options, name, path and path.resolve())
    if options.bench_python:
        # Not resolved: an environment is found by the link's own place.
        options.bench_python = options.bench_python.absolute()
        if not (options.bench_python.is_file() and os.access(options.bench_python, os.X_OK)):
            parser.error(f"--bench-python {options.bench_python} is not a program (hint: VENV/bin/python)")
    return options


# ---- the rounds ---------------------------------------------------------------------------------


class Rounds:
    """The rows as they grow, a round at a time."""

    def __init__(self, options, folder, sets, ours, peers):
        self.options, self.folder, self.sets = options, folder, sets
        self.rows = {}
        # Ours first, the raw engine right beside it: the ratio of the two is the closest. On CUDA that is TF32 and the
        # second of PyTorch's tasks.
        self.first = ours[0]
        of_ours = [partial(self.ours, ours[0], images) for images in sets]
        of_ours += [partial(self.ours, one, sets[0]) for one in ours[1:]]
        of_peers = [partial(self.peer, peer, task) for peer in peers for task in peer.ready["tasks"]]
        self.steps = [of_ours[0], *of_peers[:1], *of_ours[1:], *of_peers[1:]]
        self.kept = {}

    def row(self, key, name, scope, set_name):
        return self.rows.setdefault(
            (key, set_name), {"key": key, "name": name, "scope": scope, "set": set_name, "secs": []}
        )

    def peer(self, peer, task):
        library, _, rest = task.partition(" ")
        if library == "keras":
            row = self.row("keras", "Keras predict, tf.data", END_TO_END, rest)
        elif "files" in task.split():
            row = self.row(task, NAMES[task], END_TO_END, self.sets[0]["name"])
        else:
            row = self.row(task, NAMES[task], ENGINE_ONLY, None)
        peer.once(task)
        row["secs"].append(peer.last["secs"])

    def ours(self, one, images):
        row = self.row(one.key, one.name, END_TO_END, images["name"])
        place = tempfile.TemporaryDirectory(dir=self.folder)
        told = one.once(images["folder"], Path(place.name))
        if told["counts"]["new"] != self.options.images:
            raise BenchFailure(f"{one.name} computed {told['counts']['new']} of {self.options.images} images")
        row["secs"].append(told["extract_secs"])
        row.setdefault("total_secs", []).append(told["secs"])
        row["peak_bytes"] = max(row.get("peak_bytes", 0), told["peak_bytes"])
        row |= {name: told[name] for name in ["provider", "engine", "arrangement"]}
        if one is self.first:
            again = one.once(images["folder"], Path(place.name))
            if again["counts"]["cached"] != self.options.images:
                raise BenchFailure(f"the second run of {one.name} computed features anew")
            row.setdefault("cached_secs", []).append(again["secs"])
        # The first round's stores are kept until they have been compared.
        if images is self.sets[0] and one.key not in self.kept:
            self.kept[one.key] = (place, told["store"])
        else:
            place.cleanup()

    def go(self):
        for number in range(self.options.rounds):
            log(f"round {number + 1} of {self.options.rounds}")
            for step in self.steps if number % 2 == 0 else reversed(self.steps):
                step()
            if number == 0:
                self.compare()
        return list(self.rows.values())

    def compare(self):
        """How alike the features are: ours with one another, the engines' with those of the raw engine."""
        set_name, first = self.sets[0]["name"], self.first
        for key, (_, store) in self.kept.items():
            if key != first.key:
                found = json.loads(run(PYTHON, PEERS, "stores", self.kept[first.key][1], store))
                self.rows[key, set_name] |= {"least_cosine": found["least_cosine"], "compared_with": first.name}
        for place, _ in self.kept.values():
            place.cleanup()
        if ("raw", None) in self.rows:
            for task, least in json.loads(run(PYTHON, PEERS, "engines", self.folder)).items():
                self.rows[task, None] |= {"least_cosine": least, "compared_with": "ONNX Runtime alone"}


def gpus():
    """Name and driver of the NVIDIA GPUs here, None where nvidia-smi knows none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.rpartition(", ") for line in told.stdout.splitlines() if told.returncode == 0]
    return "; ".join(f"{name}, driver {driver}" for name, _, driver in lines) or None


def machine(device):
    info = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    known = {name.strip(): value.strip() for name, _, value in lines}
    flags = known.get("flags", known.get("Features", "")).split()
    return {
        "processor": known.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "vector_instructions": [name for name in INSTRUCTIONS if name in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_at_start": os.getloadavg()[0],
        "system": platform.platform(),
        "gpu": gpus() if device == "cuda" else None,
    }


def own_version(options):
    version = run(options.extractor, "--version").split()[-1]
    if ROOT not in options.extractor.parents:
        return f"{version} ({options.extractor})"
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return version + (f" ({described.stdout.strip()})" if described.returncode == 0 else "")


def images_folder(options, folder):
    data = os.environ.get("HEADSTART_TEST_DATA")
    if options.data:
        return options.data.resolve()
    if data and (Path(data) / "pets").is_dir():
        return Path(data) / "pets"
    log("note: no photos given, drawings stand in (hint: --data DIR)")
    run(options.extractor, "sample", folder / "drawn", "--per-class", (options.images + 1) // 2)
    return folder / "drawn"


def measure(options, folder):
    start = machine(options.device)
    make_environment()
    backbone = options.backbone
    if not backbone:
        backbone = folder / "resnet50-untrained.onnx"
        run(options.extractor, "backbone", "seed", "--size", SIDE, "--out", backbone)
    ours, told, left_out = tried(contestants_of_ours(options, backbone), folder, options)
    if told["key"]["input_size"] != [SIDE, SIDE]:
        raise BenchFailure(f"{backbone} does not take images of {SIDE}x{SIDE}")
    libraries = options.peers
    if told["map_shape"] != MAP:
        left_out += [f"{name}: {backbone} is no ResNet50" for name in libraries if name in ("keras", "torch")]
        libraries = [name for name in libraries if name not in ("keras", "torch")]

    log("preparing the images")
    preset = told["key"]["preset"]
    prepared = json.loads(run(PYTHON, PEERS, "prepare", images_folder(options, folder), folder, options.images, preset))
    sets = prepared["sets"][: 1 if options.no_large else None]
    settings = {
        "folder": str(folder), "sets": sets, "model": str(backbone), "threads": options.threads,
        "device": options.device,
    }

    peers = []
    try:
        for library in libraries:
            log(f"starting {library}")
            python = PYTHON if library == "raw" else options.bench_python or environment_python()
            command = [str(python), str(PEERS), "serve", library, json.dumps(settings)]
            peers.append(Contestant(library, command, environment_of(options.threads)))
        rows = Rounds(options, folder, sets, ours, peers).go()
    finally:
        for peer in peers:
            peer.end()

    versions = {"extractor": own_version(options), "its engine": told["engine"]}
    for peer in peers:
        versions |= peer.ready["versions"]
    if versions.get("onnxruntime") not in (None, told["engine"].split()[-1]):
        log(f"note: the raw engine is onnxruntime {versions['onnxruntime']}, ours {told['engine']}")
    rows = table.finished(rows, options.images, options.device)
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": start,
        "versions": versions,
        "settings": {
            "rounds": options.rounds, "images": options.images, "batch": BATCH, "threads": options.threads,
            "device": options.device, "backbone": told["backbone"], "ours_args": options.ours_args, "sets": sets,
        },
        "rows": rows,
        "goals": table.goals(rows, [one["name"] for one in sets], options.device),
        "left_out": left_out,
    }


def main():
    options = parse(sys.argv[1:])
    results = ROOT / "data" / "bench"
    results.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=results, prefix="tmp-") as folder:
            result = measure(options, Path(folder))
    except BenchFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for reason in result["left_out"]:
        log(f"note: left out: {reason}")
    now = datetime.datetime.now()
    out = options.json or results / f"features-{now:%Y%m%d-%H%M%S}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table.markdown(result) if options.markdown else table.plain(result))
    log(f"written to {out}")
    missed = [goal for goal in result["goals"] if goal["reached"] is False]
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
