#!/usr/bin/env python3
"""Times what may lift ONNX Runtime's CPU provider itself, all in one run on this machine, against its defaults.

    make bench WHAT=engine            or, after make build:
    python3 scripts/bench_engine.py --backbone FILE.onnx [--rounds 7] [--threads 2]

Every contestant is a process that runs the backbone on the same made-up images, 64 or as many as it is named after at a
time; they take turns for some rounds, and the medians are told as ratios to the defaults: one session of all threads in
batches of 64. Needs what scripts/requirements-peers.txt lists.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time

from bench_head import Contestant
from test_read_store import PYTHON, make_environment

IMAGES = 128  # a round and contestant


def variants(threads):
    """Name: (sessions, batch, session options, configuration entries, environment)."""
    split = f"{threads} sessions of 1 thread"
    several = {
        split: (threads, 64, {}, {}, {}),
        "no spinning": (1, 64, {}, {"session.intra_op.allow_spinning": "0"}, {}),
        "pinned threads": (1, 64, {}, {"session.intra_op_thread_affinities": affinities(threads)}, {}),
    }
    return {
        "defaults": (1, 64, {}, {}, {}),
        **(several if threads > 1 else {}),
        **{f"batches of {n}": (1, n, {}, {}, {}) for n in (8, 16, 32, 128)},
        "graph level extended": (1, 64, {"graph_optimization_level": "ORT_ENABLE_EXTENDED"}, {}, {}),
        "graph level basic": (1, 64, {"graph_optimization_level": "ORT_ENABLE_BASIC"}, {}, {}),
        "optimised before": (1, 64, {}, {"optimised": "1"}, {}),
        "no prepacking": (1, 64, {}, {"session.disable_prepacking": "1"}, {}),
        "huge pages": (1, 64, {}, {}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
        "no memory arena": (1, 64, {"enable_cpu_mem_arena": False}, {}, {}),
        "no memory pattern": (1, 64, {"enable_mem_pattern": False}, {}, {}),
        "denormals are zero": (1, 64, {}, {"session.set_denormal_as_zero": "1"}, {}),
    }


def affinities(threads):
    # The calling thread is not the session's, so one fewer; ONNX Runtime counts processors from 1.
    return ";".join(str(processor + 1) for processor in sorted(os.sched_getaffinity(0))[1:threads])


def serve(name, backbone, threads):
    """Answers each line of stdin with the seconds of a round."""
    import numpy as np
    import onnxruntime as ort

    sessions, batch, settings, entries, _ = variants(threads)[name]

    def session(path=backbone, save=None):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = max(threads // sessions, 1)
        for key, value in settings.items():
            value = getattr(ort.GraphOptimizationLevel, value) if isinstance(value, str) else value
            setattr(options, key, value)
        for key, value in entries.items():
            if "." in key:
                options.add_session_config_entry(key, value)
        if save:
            options.optimized_model_filepath = save
            where = "session.optimized_model_external_initializers_file_name"
            options.add_session_config_entry(where, "weights.bin")
        elif path != backbone:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    path = backbone
    if entries.get("optimised"):
        folder = tempfile.TemporaryDirectory()
        path = os.path.join(folder.name, "model.onnx")
        session(save=path)
    opened = [session(path) for _ in range(sessions)]
    info = opened[0].get_inputs()[0]
    shape = [batch] + [side if isinstance(side, int) else 100 for side in info.shape[1:]]
    images = np.random.default_rng(1).normal(0, 50, shape).astype("float32")
    runs = max(IMAGES // batch // sessions, 1)

    def once():
        def work(one):
            for _ in range(runs):
                one.run(None, {info.name: images})

        start = time.perf_counter()
        workers = [threading.Thread(target=work, args=(one,)) for one in opened]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return (time.perf_counter() - start) / (runs * sessions * batch)

    once()
    print(json.dumps({"ready": name}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"secs": once()}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.backbone, args.threads)

    make_environment()
    common = [str(PYTHON), os.path.abspath(__file__), "--backbone", args.backbone, "--threads", str(args.threads)]
    contestants = [
        Contestant(name, [*common, "--serve", name], {**os.environ, **environment})
        for name, (*_, environment) in variants(args.threads).items()
    ]
    for number in range(args.rounds):
        for one in contestants[:: 1 if number % 2 == 0 else -1]:
            one.once()
    for one in contestants:
        one.end()
    secs = {one.name: one.secs for one in contestants}
    rates = {name: 1 / statistics.median(all_secs) for name, all_secs in secs.items()}
    if args.json:
        print(json.dumps({"images_per_sec": rates, "secs_per_image": secs}))
        return
    print(f"{args.threads} threads, medians of {args.rounds} rounds of about {IMAGES} images\n")
    for name, rate in rates.items():
        ratios = sorted(d / s for d, s in zip(secs["defaults"], secs[name]))
        print(f"{name:24} {rate:7.1f} images/s {rate / rates['defaults']:6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    sys.exit(main())
