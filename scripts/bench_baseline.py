#!/usr/bin/env python3
"""Times the baseline CNN's training steps beside Keras and PyTorch, all in one run on this machine.

    make bench WHAT=baseline          or, after make build:
    python3 scripts/bench_baseline.py [--rounds 5] [--peers keras,torch] [--threads 2]

Every round lets each contestant make some updates (forward, backward and Adam) on batches of 64 made-up images of
100 x 100 pixels, one contestant after the other. Told are the medians over all steps of all rounds, as images a second:
a median, because a short Keras `fit` now and then waits a second with the processor idle. Imports, building, compiling
and a warm-up are not counted. PyTorch works channels-last. The peers live in .venv/bench, as those of
scripts/bench_head.py. Prints a table, and JSON with --json.
"""

import argparse
import json
import os
import statistics
import sys
import time

from bench_head import Contestant, environment_of, environment_python, own_binary

SIDE, BATCH, BATCHES = 100, 64, 8
FILTERS = [32, 32, 64]


# ---- inside the environment: one contestant, asked once a round ---------------------------------


def data():
    import numpy as np

    random = np.random.default_rng(1)
    count = BATCH * BATCHES
    images = random.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return images, random.integers(0, 2, count).astype("float32")


def keras_steps(threads, steps):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    x, y = data()
    layers = [keras.Input((SIDE, SIDE, 3)), keras.layers.Rescaling(1.0 / 255)]
    for count in FILTERS:
        layers += [keras.layers.Conv2D(count, 3), keras.layers.BatchNormalization()]
        layers += [keras.layers.ReLU(), keras.layers.MaxPool2D(2)]
    layers += [keras.layers.AveragePooling2D(2), keras.layers.Flatten(), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential(layers)
    model.compile(optimizer="adam", loss="binary_crossentropy")
    dataset = tf.data.Dataset.from_tensor_slices((x, y[:, None])).batch(BATCH).repeat().prefetch(2)

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

    def once():
        # The first step of a `fit` also starts its pipeline: one more, and only the rest counts.
        clock = Clock()
        model.fit(dataset, epochs=1, steps_per_epoch=steps + 1, verbose=0, callbacks=[clock])
        return [end - start for start, end in zip(clock.ends, clock.ends[1:])]

    return once


def torch_steps(threads, steps):
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    x, y = data()
    x = torch.from_numpy(x).permute(0, 3, 1, 2)  # channels last in memory as it is
    y = torch.from_numpy(y)
    layers, channels = [], 3
    for count in FILTERS:
        layers += [nn.Conv2d(channels, count, 3), nn.BatchNorm2d(count, eps=1e-3, momentum=0.01)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels = count
    layers += [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(1600, 1)]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
    loss_of = nn.BCEWithLogitsLoss()

    def once():
        secs = []
        for step in range(steps):
            start = time.perf_counter()
            rows = slice(step % BATCHES * BATCH, (step % BATCHES + 1) * BATCH)
            optimizer.zero_grad()
            loss_of(model(x[rows].float() / 255)[:, 0], y[rows]).backward()
            optimizer.step()
            secs.append(time.perf_counter() - start)
        return secs

    return once


PEERS = {"keras": keras_steps, "torch": torch_steps}


def serve(name, threads, steps):
    """Answers each line of stdin with the seconds of some steps."""
    once = PEERS[name](threads, steps)
    once()
    print(json.dumps({"ready": name}), flush=True)
    for _ in sys.stdin:
        secs = once()
        print(json.dumps({"secs": sum(secs), "all": secs}), flush=True)


# ---- outside: the rounds ------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="updates a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", default="keras,torch", help="which of keras,torch to compare with")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.threads, args.steps)

    peers = [peer for peer in args.peers.split(",") if peer]
    own = own_binary("baseline_speed")
    commands = {"ours": [own, "serve", str(SIDE), str(BATCH), str(args.steps)]}
    if peers:
        python = environment_python()
        numbers = ["--threads", str(args.threads), "--steps", str(args.steps)]
        commands |= {peer: [python, __file__, *numbers, "--serve", peer] for peer in peers}
    environment = environment_of(args.threads)
    contestants = [Contestant(name, command, environment) for name, command in commands.items()]
    steps = {one.name: [] for one in contestants}
    for _ in range(args.rounds):
        for one in contestants:
            one.once()
            steps[one.name] += one.last["all"]
    for one in contestants:
        one.end()
    rates = {name: BATCH / statistics.median(secs) for name, secs in steps.items()}
    if args.json:
        print(json.dumps({"images_per_sec": rates, "step_secs": steps}))
        return
    print(f"{BATCH} images of {SIDE} x {SIDE} a step, {args.threads} threads, medians of {args.rounds} rounds of", end=" ")
    print(f"{args.steps} steps\n")
    for name, rate in rates.items():
        compared = "" if name == "ours" else f"   ours is {rates['ours'] / rate:4.2f} times as fast"
        print(f"{name:6} {rate:7.0f} images/s{compared}")


if __name__ == "__main__":
    sys.exit(main())
