#!/usr/bin/env python3
"""How stage one scales: a model of many nodes on one file system, and its check by real runs.

    scripts/scale_model.py                         the table, for ImageNet-21k
    scripts/scale_model.py --images 1281167        another data set
    scripts/scale_model.py --check                 runs 1, 2 and 4 processes and compares
    scripts/scale_model.py --check --exact-only    without timing them

Needs Python alone; the check needs the built binary, ONNX Runtime (`make runtime`) and strace.

The model. N processes, one a node, each `extractor features DATA --index INDEX --shard I/N`:

    part         n = images / N
    record batch b rows                                          (--batch-size)
    shard        r = b * ceil(floor(shard_bytes / map_bytes) / b) rows
                 s = ceil(n / r) a part; the last one is smaller
    its bytes    sum over batches of m rows:
                 map_bytes * m + pad(32 m) + pad(4 (m + 1)) + pad(8 m) + 320 + 24
                 + pad8(19 batches + 2) + F, with pad() to 64, pad8() to 8; F: what the schema says,
                 2 to 3 kB; to 8 bytes, as an alignment depends on the texts in the schema
    files        N s shards, N notes of cost, store.json, the index; later N s of pooled features
    operations   on names: one an image (open), seven a shard written, two a shard found, some
                 twenty more a process; `operations()` counts them by kind
    reads        image_bytes * n; the index; of each shard found its outline: the head, ids and views
                 of every record batch and the footer, in pages of 4,096 bytes, one after the other,
                 as many shards at once as there are threads
    memory       10 bytes a row of the store, in each process, and what the engine takes; the index,
                 which is mapped, and the shards are page cache. Making the index takes the path and 8
                 to 16 bytes an image instead
    requests     of an object store: a PUT a file (parts of a large one not counted), a LIST a thousand
                 files, for the outline of a shard 2 GETs and one a record batch; an outline is fetched
                 once and kept
    compute      n / (images_per_sec * cores)

The file system's limits (--fs-gb-per-sec, --fs-ops-per-sec, --fs-ms) and the rate of a core are assumptions
to be replaced by your own; everything that the check calls exact is counted.
"""

import argparse
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PAGE = 4096
MESSAGE_BYTES = 320  # a record batch's head
BLOCK_BYTES = 24  # and its place in the footer
ID_BYTES, OFFSET_BYTES, VIEW_BYTES = 32, 4, 8  # of a row; the view is `identity`


def padded(count, to=64):
    return -(-count // to) * to


# ---- formulas ----------------------------------------------------------------------------------


def rows_per_shard(shard_bytes, map_bytes, batch):
    """A shard is closed after the record batch with which it has the rows that fit."""
    return batch * math.ceil(max(shard_bytes // map_bytes, 1) / batch)


def batches_of(rows, batch):
    full, rest = divmod(rows, batch)
    return [batch] * full + [rest] * (rest > 0)


def shards_of(images, shard_bytes, map_bytes, batch):
    """Rows of each shard that a part of so many images becomes."""
    rows = rows_per_shard(shard_bytes, map_bytes, batch)
    full, rest = divmod(images, rows)
    return [rows] * full + [rest] * (rest > 0)


def head_bytes(rows):
    """Of a record batch: all that lies before its features."""
    ids, views = padded(ID_BYTES * rows), padded(VIEW_BYTES * rows)
    return MESSAGE_BYTES + ids + padded(OFFSET_BYTES * (rows + 1)) + views


def shard_file_bytes(rows, map_bytes, batch, frame):
    """Size of a shard; `frame` is F, what the schema and the rest of the footer take."""
    batches = batches_of(rows, batch)
    body = sum(head_bytes(m) + padded(map_bytes * m) + BLOCK_BYTES for m in batches)
    return body + padded(19 * len(batches) + 2, 8) + frame


def outline_pages(rows, batch, frame):
    """What opening touches of a shard: on average, as a head begins anywhere in its first page."""
    heads = sum(1 + (head_bytes(m) - 1) / PAGE for m in batches_of(rows, batch))
    return 1 + heads + math.ceil(frame / PAGE)


def operations(images, written, found, first, optimises=False):
    """Operations on names in DATA, index, backbone and store, of one process.

    `written` shards are new, `found` were there; `first`: there was no store yet; `optimises`: no optimised model was
    kept yet, so that the backbone is read once more.
    """
    count = Counter()
    # DATA: what it is, whether a selection may lie beside it, then each image once.
    count += Counter(stat=3, list=1, open=images)
    # The index and the backbone with its description.
    count += Counter(stat=1, open=1) + Counter(open=2 + optimises)
    # The store: store.json, its list for shards and for rejections, each shard.
    if first:
        # Not there: looked for, then made with its folders.
        count += FIRST
    else:
        count += Counter(stat=2, open=2, list=2)  # store.json also before it is written to
        count += Counter(stat=found, open=found)
    # Each shard, and the note of cost: is the store there, its folder; create, sync, rename, sync
    # the folder.
    published = Counter(stat=2, create=1, sync=2, rename=1, open=1)
    for _ in range(written + 1):
        count += published
    return count


# store.json and two folders are made.
FIRST = Counter(stat=7, create=1, rename=1, sync=3, open=2, mkdir=2)


def index_operations(files, classes):
    """Of `extractor index` on names in DATA: every folder of a class is listed twice, each file looked at
    and read."""
    return Counter(list=3 + 2 * classes, stat=files + classes + 4, open=files)


KINDS = ["open", "stat", "list", "create", "rename", "sync", "mkdir"]


# ---- the table ---------------------------------------------------------------------------------


def part(args, nodes):
    """One process of `nodes`, the whole job, and what limits it."""
    images = math.ceil(args.images / nodes)
    shards = shards_of(images, args.shard_bytes, args.map_bytes, args.batch_size)
    batches = math.ceil(images / args.batch_size)
    size = lambda rows: shard_file_bytes(rows, args.map_bytes, args.batch_size, args.frame_bytes)
    full = size(shards[0])
    written = full * (len(shards) - 1) + size(shards[-1])
    index_bytes = args.images * (32 + 4 + args.path_bytes + 4)
    ops = sum(operations(images, len(shards), 0, False).values())
    compute = images / (args.images_per_sec * args.cores)
    read = images * args.image_bytes + index_bytes
    all_read, all_written, all_ops = read * nodes, written * nodes, ops * nodes
    start = index_bytes / args.index_bytes_per_sec
    # One node walks and digests before the others begin.
    listing = sum(index_operations(args.images, args.classes).values())
    index_secs = max(args.images * args.image_bytes / (args.node_gb_per_sec * 1e9), listing / args.fs_ops_per_sec)
    secs = {
        "compute": compute + start,
        "bandwidth": (all_read + all_written) / (args.fs_gb_per_sec * 1e9),
        "operations": all_ops / args.fs_ops_per_sec,
    }
    limit = max(secs, key=secs.get)
    total_shards = len(shards) * nodes
    pages = [outline_pages(rows, args.batch_size, args.frame_bytes) for rows in (shards[0], shards[-1])]
    pages = (pages[0] * (len(shards) - 1) + pages[1]) * nodes
    outline = PAGE * pages
    # The shards side by side, each page after the other; then the rows, in memory.
    cold = pages * args.fs_ms / 1000 / args.cores
    open_secs = args.images * args.open_secs_per_row + cold
    return {
        "nodes": nodes,
        "images": images,
        "hours": max(secs.values()) / 3600,
        "limit": limit,
        "read": all_read,
        "written": all_written,
        "gb_per_sec": (all_read + all_written) / max(secs.values()) / 1e9,
        "operations": all_ops,
        "ops_per_sec": all_ops / max(secs.values()),
        "shards": total_shards,
        "last": size(shards[-1]),
        "full": full,
        "index_secs": index_secs,
        "files": total_shards + nodes + 2,
        "start_secs": start,
        "index_bytes": index_bytes,
        "outline": outline,
        "open_secs": open_secs,
        "rerun_read": (outline + index_bytes) * nodes,
        "requests_put": total_shards + nodes + 2,
        "requests_list": math.ceil((total_shards + nodes + 2) / 1000),
        # The first bytes and the footer of each shard, and the head of each record batch.
        "requests_outline": 2 * total_shards + batches * nodes,
        "memory": args.images * args.bytes_per_image,
        "maps": 2 * total_shards,
    }


def si(n, unit="B"):
    for prefix, power in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= power:
            return f"{n / power:.3g} {prefix}{unit}"
    return f"{n:.0f} {unit}"


def duration(secs):
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if secs >= 2 * size:
            return f"{secs / size:.3g} {unit}"
    return f"{secs:.2g} s"


def table(rows, columns):
    print("| " + " | ".join(name for name, _ in columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(show(row) for _, show in columns) + " |")


def model(args):
    rows = [part(args, nodes) for nodes in args.nodes]
    first = rows[0]
    print(
        f"{args.images:,} images of {si(args.image_bytes)}, maps of {args.map_bytes:,} bytes, shards of "
        f"{rows_per_shard(args.shard_bytes, args.map_bytes, args.batch_size):,} rows ({si(first['full'])}) in record "
        f"batches of {args.batch_size}; {args.cores} cores a node at {args.images_per_sec:g} images/s each; a file "
        f"system of {args.fs_gb_per_sec:g} GB/s and {args.fs_ops_per_sec:,.0f} operations/s.\n"
        f"First the index, {si(first['index_bytes'])}, by one node that reads {args.node_gb_per_sec:g} GB/s: "
        f"{duration(first['index_secs'])}.\n"
    )
    table(
        rows,
        [
            ("nodes", lambda r: f"{r['nodes']}"),
            ("features", lambda r: duration(r["hours"] * 3600)),
            ("limited by", lambda r: r["limit"]),
            ("read", lambda r: si(r["read"])),
            ("written", lambda r: si(r["written"])),
            ("needs", lambda r: f"{r['gb_per_sec']:.2g} GB/s"),
            ("operations", lambda r: f"{si(r['operations'], '').strip()}, {r['ops_per_sec']:,.0f}/s"),
            ("files", lambda r: f"{r['files']:,}"),
            ("last shard", lambda r: si(r["last"])),
            ("start", lambda r: duration(r["start_secs"])),
        ],
    )
    print("\nRun again, all there (what each process does before it computes), and object storage:\n")
    table(
        rows,
        [
            ("nodes", lambda r: f"{r['nodes']}"),
            ("open the store", lambda r: duration(r["open_secs"])),
            ("reads for it, each", lambda r: si(r["outline"] + r["index_bytes"])),
            ("all nodes", lambda r: si(r["rerun_read"])),
            ("memory, each", lambda r: si(r["memory"])),
            ("maps of a trainer", lambda r: f"{r['maps']:,} of 65,530"),
            ("PUT", lambda r: f"{r['requests_put']:,}"),
            ("LIST", lambda r: f"{r['requests_list']:,}"),
            ("GET, outlines, each", lambda r: f"{r['requests_outline']:,}"),
        ],
    )


TRACE = ["strace", "-f", "-y", "-s", "4096", "-e", "trace=%file,fsync,fdatasync", "-o"]

# ---- the check ---------------------------------------------------------------------------------


class Bench:
    """Images, a backbone and an index in a folder of its own, and runs over them."""

    def __init__(self, args, root):
        self.args, self.root, self.runs = args, Path(root), 0
        target = os.environ.get("CARGO_TARGET_DIR", HERE / "target")
        self.extractor = str(Path(args.extractor or Path(target) / "release/extractor").resolve())
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "HEADSTART_", "JOB_"))}
        self.env["HEADSTART_DATA_DIR"] = str(self.root / "data")
        if "ORT_DYLIB_PATH" not in self.env:
            libraries = sorted((HERE / "data/runtime").glob("*/libonnxruntime.so*"))
            if libraries:
                self.env["ORT_DYLIB_PATH"] = str(libraries[-1])
        shared = os.environ.get("HEADSTART_TEST_DATA")
        if shared and not args.exact_only:
            self.images = Path(shared) / "pets"
            self.backbone = self.root / "backbone.onnx"
            shutil.copy(Path(shared) / "models/mobilenetv2_100.onnx", self.backbone)
            self.flags = ["--preset", "imagenet"]
        else:
            self.images, self.backbone, self.flags = self.root / "images", self.root / "backbone.onnx", []
            self.call("sample", self.images, "--per-class", "150" if args.exact_only else "600")
            self.call("backbone", "seed", "--size", "32", "--out", self.backbone)
        self.index = self.root / "index.arrow"
        self.model = [self.backbone, self.backbone.with_suffix(".toml")]
        log = self.root / "strace.log"
        indexed = json.loads(self.call("index", self.images, "--index", self.index, "--json", log=log))
        self.total, self.files, self.classes = indexed["unique"], indexed["images"], len(indexed["classes"])
        self.indexing = count_operations(log, [self.images])

    def call(self, *args, log=None):
        command = [self.extractor, *map(str, args), "--quiet"]
        command = command if log is None else [*TRACE, str(log), *command]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}: {done.stderr}")
        return done.stdout

    def store(self):
        self.runs += 1
        return self.root / f"store-{self.runs}"

    def features(self, store, number, of):
        size = ["--batch-size", self.args.check_batch, "--shard-bytes", self.args.check_shard_bytes]
        command = [self.extractor, "features", self.images, "--backbone", self.backbone, "--index", self.index]
        command += ["--store", store, "--threads", 1, "--ep", "cpu", "--quiet", "--json", *self.flags, *size]
        # One part of one is no part; the environment was cleared.
        return list(map(str, command + (["--shard", f"{number}/{of}"] if of > 1 else [])))

    def together(self, of):
        """Of `of` processes side by side: seconds, and seconds of processor time."""
        store = self.store()
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        commands = [self.features(store, i, of) for i in range(of)]
        running = [
            subprocess.Popen(c, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for c in commands
        ]
        results = [json.loads(process.communicate()[0]) for process in running]
        secs, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert sum(result["counts"]["new"] for result in results) == self.total
        return secs, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def one_by_one(self, of):
        """Each part under strace, after those before it: result and operations."""
        store, parts = self.store(), []
        for number in range(of):
            log = self.root / "strace.log"
            before = list(store.glob("*/shard-*"))
            done = subprocess.run(
                [*TRACE, str(log), *self.features(store, number, of)], env=self.env, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"error: part {number} of {of}: {done.stderr}")
            after = list(store.glob("*/shard-*"))
            parts.append(
                {
                    "result": json.loads(done.stdout),
                    "operations": count_operations(log, [self.images, self.index, *self.model, store]),
                    "found": len(before),
                    "sizes": sorted(path.stat().st_size for path in set(after) - set(before)),
                    "files": sum(1 for path in store.glob("*/*")),
                }
            )
        return parts


def kind(call, rest):
    if call in ("open", "openat", "openat2"):
        if "O_CREAT" in rest:
            return "create"
        return "list" if "O_DIRECTORY" in rest else "open"
    if call.startswith("rename") or call.startswith("link"):
        return "rename"
    if call in ("fsync", "fdatasync"):
        return "sync"
    if call in ("stat", "lstat", "statx", "newfstatat", "access", "faccessat", "faccessat2", "readlink"):
        # Of an open file: answered from what opening it brought.
        return None if "AT_EMPTY_PATH" in rest else "stat"
    return {"mkdir": "mkdir", "mkdirat": "mkdir"}.get(call, call)


def count_operations(log, places):
    """System calls on names below `places`, by kind."""
    places = [str(place) for place in places]
    line_form = re.compile(r"^\d+\s+(\w+)\((.*)$")
    count = Counter()
    for line in log.read_text(errors="replace").splitlines():
        found = line_form.match(line)
        if not found or found[1] in ("execve", "fcntl", "getcwd"):
            continue
        call, rest = found.groups()
        if call in ("fsync", "fdatasync"):
            named = re.match(r"\d+<([^>]*)>", rest)
        else:
            named = re.search(r'"((?:[^"\\]|\\.)*)"', rest)
        path = named[1] if named else ""
        if not any(path == place or path.startswith(place + "/") for place in places):
            continue
        if what := kind(call, rest):
            count[what] += 1
    return count


def check(args):
    if not shutil.which("strace"):
        print("skipped: strace is not there (hint: apt-get install strace)")
        return 0
    wrong = []

    def same(what, predicted, found):
        if predicted != found:
            wrong.append(f"{what}: predicted {predicted}, found {found}")

    with tempfile.TemporaryDirectory(prefix="headstart-scale-") as root:
        bench = Bench(args, root)
        print(f"{bench.total:,} images, record batches of {args.check_batch}, shards of {si(args.check_shard_bytes)}\n")
        print("| processes | images | shards | bytes | open | stat | list | create | rename | sync | mkdir |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for what, count in index_operations(bench.files, bench.classes).items():
            same(f"the index, {what}", count, bench.indexing[what])
        frame, seen = None, 0
        for of in (2, 4):
            parts = bench.one_by_one(of)
            images = [p["result"]["counts"]["new"] for p in parts]
            same(f"images of {of} parts together", bench.total, sum(images))
            sum_predicted, sum_found, all_shards, all_bytes = Counter(), Counter(), 0, Counter()
            for number, p in enumerate(parts):
                height, width, channels = p["result"]["map_shape"]
                map_bytes = 4 * height * width * channels
                shards = shards_of(images[number], args.check_shard_bytes, map_bytes, args.check_batch)
                name = f"part {number} of {of}"
                same(f"{name}, shards", len(shards), len(p["sizes"]))
                if frame is None:
                    frame = p["sizes"][-1] - shard_file_bytes(max(shards), map_bytes, args.check_batch, 0)
                sizes = sorted(shard_file_bytes(rows, map_bytes, args.check_batch, frame) for rows in shards)
                if any(abs(a - b) > 8 for a, b in zip(sizes, p["sizes"])):
                    same(f"{name}, bytes of its shards", sizes, p["sizes"])
                # Shards, a note of cost a part, store.json.
                all_shards += len(shards)
                all_bytes += Counter(predicted=sum(sizes), found=sum(p["sizes"]))
                same(f"{name}, files in the store", all_shards + number + 2, p["files"])
                optimises = seen == 0  # the first part of all
                seen += 1
                predicted = operations(images[number], len(shards), p["found"], number == 0, optimises)
                sum_predicted, sum_found = sum_predicted + predicted, sum_found + p["operations"]
                for what in {*predicted, *p["operations"]}:
                    same(f"{name}, {what}", predicted[what], p["operations"][what])
            for what, count in (("predicted", sum_predicted), ("found", sum_found)):
                cells = " | ".join(str(count[k]) for k in KINDS)
                print(f"| {of}, {what} | {sum(images):,} | {all_shards} | {all_bytes[what]:,} | {cells} |")
        if not args.exact_only:
            timings(bench)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    print(f"\nexact: {'all as predicted' if not wrong else f'{len(wrong)} differ'}")
    return 1 if wrong else 0


def timings(bench):
    cores = len(os.sched_getaffinity(0))
    counts = (1, 2, 4)
    runs = {of: [] for of in counts}
    for _ in range(bench.args.rounds):
        for of in counts:
            runs[of].append(bench.together(of))
    best = {of: min(all_runs) for of, all_runs in runs.items()}
    # Decoding goes on beside the backbone, so that one thread is busy and another one now and then.
    busy = best[1][1] / best[1][0]
    print(f"\nOne thread a process, {cores} cores, the best of {bench.args.rounds} interleaved rounds; one process")
    print(f"keeps {busy:.2f} cores busy, so that p processes are predicted min(p, {cores} / {busy:.2f}) times as fast:\n")
    print("| processes | seconds | processor seconds | images/s | speed-up | predicted |")
    print("|---|---|---|---|---|---|")
    for of in counts:
        secs, processor = best[of]
        predicted = min(of, max(1, cores / busy))
        cells = [f"{secs:.2f}", f"{processor:.2f}", f"{bench.total / secs:.0f}"]
        print(f"| {of} | {' | '.join(cells)} | {best[1][0] / secs:.2f} | {predicted:.2f} |")


def numbers(text):
    return [int(n) for n in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--nodes", type=numbers, default=[1, 4, 16, 64, 256], help="one process each: 1,4,16,64,256")
    add("--images", type=int, default=14_197_122, help="ImageNet-21k's by default")
    add("--image-bytes", type=int, default=110_000, help="of an image file")
    add("--path-bytes", type=int, default=29, help="of a path below DATA")
    add("--map-bytes", type=int, default=4 * 4 * 2048 * 4, help="of a row's features; 4x4x2048 f32 by default")
    add("--batch-size", type=int, default=64)
    add("--shard-bytes", type=int, default=256 << 20)
    add("--frame-bytes", type=int, default=2560, help="F of the formulas")
    add("--cores", type=int, default=32, help="of a node")
    add("--images-per-sec", type=float, default=RATE, help="of a core")
    add("--fs-gb-per-sec", type=float, default=10, help="of the shared file system, an assumption")
    add("--fs-ops-per-sec", type=float, default=20_000, help="of the shared file system, an assumption")
    add("--node-gb-per-sec", type=float, default=2.5, help="that one node reads, an assumption")
    add("--classes", type=int, default=21_841, help="folders below DATA")
    add("--index-bytes-per-sec", type=float, default=INDEX_RATE, help="read and checked, by one process, an assumption")
    add("--fs-ms", type=float, default=0.5, help="until a page of the file system comes, an assumption")
    add("--open-secs-per-row", type=float, default=OPEN_ROW, help="of a store in the page cache: opened and looked up")
    add("--bytes-per-image", type=float, default=BYTES, help="of memory")
    add("--check", action="store_true", help="run 1, 2 and 4 processes here and compare")
    add("--exact-only", action="store_true", help="with --check: no timings")
    add("--rounds", type=int, default=3, help="of the check's timings")
    add("--extractor", help="the binary [default: target/release/extractor]")
    add("--check-batch", type=int, default=16, help="--batch-size of the check's runs")
    add("--check-shard-bytes", type=int, default=1 << 20, help="--shard-bytes of the check's runs")
    args = parser.parse_args()
    if args.check:
        sys.exit(check(args))
    model(args)


# Measured on two cores of an AMD EPYC with AVX-512.
RATE = 47.0  # ResNet50, f32, 100x100, one thread, by processor time
OPEN_ROW = 1.4e-6  # store inspect --index over 14 million rows, all of it
BYTES = 10  # heap of that
# An assumption.
INDEX_RATE = 250e6

if __name__ == "__main__":
    main()
