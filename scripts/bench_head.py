#!/usr/bin/env python3
"""Times the head's solvers beside Keras, PyTorch and scikit-learn, all in one run on this machine.

    make bench WHAT=head              or, after make build:
    python3 scripts/bench_head.py [--rounds 3] [--peers keras,torch,sklearn] [--threads 2]

Every round runs each contestant once, one after the other, on the same made-up features: 18,610 x 2,048 ReLU-like
numbers in two classes, with 2,326 more for validation. Times are medians over the rounds, of training alone: imports,
reading, compiling and a warm-up epoch are not counted. The peers live in .venv/bench, made on the first run (PyTorch's
wheel brings CUDA along: about 3 GB); --peers leaves some out. Prints a table, and JSON with --json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("HEADSTART_BENCH_VENV", ROOT / ".venv" / "bench"))
REQUIREMENTS = Path(__file__).with_name("requirements-bench.txt")
TRAIN, VALIDATION, CHANNELS = 18_610, 2_326, 2_048
EPOCHS, BATCH, L2, TOLERANCE = 7, 64, 1e-3, 1e-4
PENALTIES, FOLDS = 45, 5


# ---- inside the environment: one contestant, asked once a round ---------------------------------


def data(folder):
    import numpy as np

    features = np.fromfile(folder / "features.f32", dtype="<f4").reshape(-1, CHANNELS)
    labels = np.fromfile(folder / "labels.u32", dtype="<u4")
    return features[:TRAIN], labels[:TRAIN], features[TRAIN:], labels[TRAIN:]


def make_data(folder):
    """Sparse non-negative numbers of unequal scales; one channel in sixteen knows the label."""
    import numpy as np

    random = np.random.default_rng(1)
    count = TRAIN + VALIDATION
    labels = random.integers(0, 2, count, dtype=np.uint32)
    size = random.random((count, 1), dtype=np.float32)
    features = random.random((count, CHANNELS), dtype=np.float32) * (0.5 + size) - 0.4
    features[:, ::16] += 0.1 * labels[:, None].astype(np.float32)
    features = np.maximum(features, 0) * (1 + np.arange(CHANNELS) % 3).astype(np.float32)
    features.astype("<f4").tofile(folder / "features.f32")
    labels.astype("<u4").tofile(folder / "labels.u32")


def objective(weights, bias, features, labels, l2):
    """Mean binary cross-entropy + l2/2 |w|^2, in float64."""
    import numpy as np

    weights = weights.astype(np.float64)
    logits = features.astype(np.float64) @ weights + bias
    losses = np.logaddexp(0, logits) - labels * logits
    return float(losses.mean() + 0.5 * l2 * weights @ weights)


def keras_adam(folder, threads):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    x, y, xv, yv = data(folder)
    model = keras.Sequential([keras.layers.Input((CHANNELS,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    fit = dict(batch_size=BATCH, validation_data=(xv, yv), verbose=0)
    model.fit(x, y, epochs=1, **fit)

    def once():
        model.fit(x, y, epochs=EPOCHS, **fit)
        return {}

    return once


def torch_adam(folder, threads):
    import torch

    torch.set_num_threads(threads)
    x, y, xv, yv = (torch.from_numpy(a.astype("float32")) for a in data(folder))

    def train(epochs):
        model = torch.nn.Linear(CHANNELS, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
        loss_of = torch.nn.BCEWithLogitsLoss()
        for _ in range(epochs):
            for batch in torch.randperm(TRAIN).split(BATCH):
                optimizer.zero_grad()
                loss_of(model(x[batch])[:, 0], y[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                logits = model(xv)[:, 0]
                loss_of(logits, yv).item(), ((logits > 0) == (yv > 0)).float().mean().item()

    train(1)

    def once():
        train(EPOCHS)
        return {}

    return once


def sklearn_lbfgs(folder, threads):
    from sklearn.linear_model import LogisticRegression

    x, y, _, _ = data(folder)

    def once():
        model = LogisticRegression(C=1 / (L2 * TRAIN), tol=TOLERANCE, max_iter=1000).fit(x, y)
        return {"objective": lambda: objective(model.coef_[0], model.intercept_[0], x, y, L2)}

    return once


def sklearn_path(folder, threads):
    """The penalties on each fold, with warm starts from the strongest to the weakest."""
    import numpy as np
    from sklearn.linear_model import LogisticRegressionCV

    x, y, _, _ = data(folder)
    penalties = np.logspace(-6, 5, PENALTIES)

    def once():
        model = LogisticRegressionCV(
            Cs=1 / (penalties * TRAIN * (FOLDS - 1) / FOLDS), cv=FOLDS, tol=TOLERANCE, max_iter=1000, refit=False,
            scoring="neg_log_loss", n_jobs=threads,
        )
        model.fit(x, y)
        return {}

    return once


PEERS = {"keras": {"adam": keras_adam}, "torch": {"adam": torch_adam}, "sklearn": {"lbfgs": sklearn_lbfgs}}


def serve(name, folder, threads):
    """Answers each line of stdin with one timed training."""
    library, task = name.split("-")
    once = (PEERS[library] | {"sklearn": {"lbfgs": sklearn_lbfgs, "path": sklearn_path}}.get(library, {}))[task](
        folder, threads
    )
    print(json.dumps({"ready": name}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        result = once()
        secs = time.perf_counter() - start
        result = {key: value() for key, value in result.items()}
        print(json.dumps({"secs": secs, **result}), flush=True)


# ---- outside: the rounds ------------------------------------------------------------------------


class Contestant:
    """A process that does its task once for each line it gets; `ready` is what it said when it could."""

    def __init__(self, name, command, environment):
        self.name, self.secs, self.last = name, [], {}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.ready = self.answer()

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"error: {self.name} ended with exit code {self.process.wait()}")

    def once(self, task="once"):
        print(task, file=self.process.stdin, flush=True)
        self.last = self.answer()
        self.secs.append(self.last["secs"])

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def environment_python():
    """The Python of the peers' environment, made if need be."""
    python = VENV / "bin" / "python"
    stamp = VENV / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {VENV}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]
        subprocess.run([*install, str(REQUIREMENTS)], check=True)
        stamp.write_text(wanted)
    return str(python)


def environment_of(threads):
    """The environment variables that make every library use so many threads."""
    variables = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"]
    return os.environ | {variable: str(threads) for variable in variables}


def own_binary(name="speed"):
    """The benchmark binary of that name, built."""
    command = f"cargo test --release --locked --test {name} --no-run --message-format json"
    built = subprocess.run(command.split(), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
    found = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == name]
    return found[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", default="keras,torch,sklearn", help="which of keras,torch,sklearn to compare with")
    parser.add_argument("--no-path", action="store_true", help="leave out the penalty path with folds")
    parser.add_argument("--sklearn-path", action="store_true", help="let scikit-learn do the path, too (minutes)")
    parser.add_argument("--linfa", action="store_true", help="time linfa, too (a minute a round)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--make-data", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make_data:
        return make_data(Path(args.make_data))
    if args.serve:
        return serve(args.serve[0], Path(args.serve[1]), args.threads)

    own, python = own_binary(), environment_python()
    peers = [peer for peer in args.peers.split(",") if peer]
    tasks = ["adam", "lbfgs"] + ([] if args.no_path else ["path"])
    names = [f"ours-{task}" for task in tasks] + (["ours-linfa"] if args.linfa else [])
    names += [f"{peer}-{task}" for peer in peers for task in PEERS[peer]]
    names += ["sklearn-path"] if args.sklearn_path else []
    threads, environment = str(args.threads), environment_of(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, __file__, "--make-data", folder], check=True)

        def contestant(name):
            ours = name.startswith("ours-")
            served = [own, "serve", name.removeprefix("ours-"), folder]
            peer = [python, __file__, "--threads", threads, "--serve", name, folder]
            return Contestant(name, served if ours else peer, environment)

        contestants = [contestant(name) for name in names]
        for _ in range(args.rounds):
            for one in contestants:
                # The path takes long and is compared with nothing unless asked: once is enough.
                if not (one.name.endswith(("-path", "-linfa")) and one.secs):
                    one.once()
        for one in contestants:
            one.end()
    secs = {one.name: statistics.median(one.secs) for one in contestants}
    objectives = {one.name: one.last["objective"] for one in contestants if one.last.get("objective")}
    if args.json:
        print(json.dumps({"secs": secs, "all": {o.name: o.secs for o in contestants}, "objective": objectives}))
        return
    print(f"{TRAIN:,} x {CHANNELS:,} float32, {args.threads} threads, medians of {args.rounds} rounds")
    print(f"adam: {EPOCHS} epochs of batches of {BATCH}, validation after each; lbfgs: l2 {L2}, tolerance {TOLERANCE};")
    print(f"path: {PENALTIES} penalties from 1e-6 to 1e5, {FOLDS} folds\n")
    for name, median in secs.items():
        task = name.split("-")[1]
        ratio = median / secs[f"ours-{'lbfgs' if task == 'linfa' else task}"]
        compared = "" if name.startswith("ours-") and task != "linfa" else f"  {ratio:6.1f} times ours"
        value = f"  objective {objectives[name]:.7f}" if name in objectives else ""
        print(f"{name:14} {median:8.3f} s{compared}{value}")


if __name__ == "__main__":
    sys.exit(main())
