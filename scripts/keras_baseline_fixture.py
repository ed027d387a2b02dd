#!/usr/bin/env python3
"""Writes head-trainer/tests/data/keras_baseline*: what Keras makes of the baseline CNN.

The Rust engine is tested against these numbers (head-trainer/tests/keras_baseline.rs). Three networks start from
stored weights and take Adam steps on images made by a formula that the test repeats: a small one for two classes and
one for three, ten steps each with gammas of both signs and batches of unequal size, and the full-size one for 100 x 100
pixels, three steps. Stored are the losses and, after the last step, the moving moments, and for the small ones the
weights after the last step with the logits that inference then gives.

A convolution's bias before a batch normalisation has no effect on training and a gradient of zero, of which Keras
computes rounding errors that Adam blows up to steps. So the moving means are stored without the biases' own part in
them: what Keras has, less the same moving average of the biases. A beta whose ReLU never cuts anything off is such a
bias of the next stage, too, and so the betas start low.

Usage: python scripts/keras_baseline_fixture.py, with the tensorflow of scripts/requirements-bench.txt, say that of
.venv/bench, which scripts/bench_baseline.py makes.
"""

import json
import os
import pathlib
import struct

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
import keras
import numpy as np
import tensorflow as tf

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "head-trainer" / "tests" / "data"
CASES = {
    "two": dict(size=(33, 38), filters=(4, 5, 6), classes=2, images=21, batches=[8, 8, 5], steps=10),
    "three": dict(size=(36, 30), filters=(3, 4, 5), classes=3, images=21, batches=[8, 8, 5], steps=10),
    "full": dict(size=(100, 100), filters=(32, 32, 64), classes=2, images=16, batches=[8, 8], steps=3),
}


def make_images(count, height, width, classes):
    """Noise, and a left half that is brighter the higher the class is."""
    numbers = np.arange(count * height * width * 3, dtype=np.uint64)
    noise = (numbers * np.uint64(2654435761) % np.uint64(1 << 32)) >> np.uint64(25)  # 0 to 127
    images = noise.reshape(count, height, width, 3).astype(np.uint8)
    labels = np.arange(count) * 7 // 3 % classes
    images[:, :, : width // 2] += (40 * labels).astype(np.uint8)[:, None, None, None]
    return images, labels


def build(size, filters, classes):
    layers = [keras.Input((*size, 3)), keras.layers.Rescaling(1.0 / 255)]
    for i, count in enumerate(filters, 1):
        layers += [
            keras.layers.Conv2D(count, 3, name=f"conv{i}"),
            keras.layers.BatchNormalization(name=f"norm{i}"),
            keras.layers.ReLU(),
            keras.layers.MaxPool2D(2),
        ]
    outputs = 1 if classes == 2 else classes
    layers += [keras.layers.AveragePooling2D(2), keras.layers.Flatten(), keras.layers.Dense(outputs, name="dense")]
    return keras.Sequential(layers)


def weights_of(model):
    return {
        f"{layer.name}/{weight.name}": weight.numpy()
        for layer in model.layers
        if layer.name.startswith(("conv", "norm", "dense"))
        for weight in layer.weights
    }


def save(path, weights, size, classes):
    """A file of weights as head-trainer keeps a baseline."""
    names = [f"class {k}" for k in range(classes)]
    metadata = {"format": "headstart baseline", "version": "1", "size": json.dumps(size), "classes": json.dumps(names)}
    header, data = {"__metadata__": metadata}, b""
    for name, values in weights.items():
        values = values.astype("<f4")
        header[name] = {
            "dtype": "F32", "shape": values.shape, "data_offsets": [len(data), len(data) + values.nbytes],
        }
        data += values.tobytes()
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def run(name, size, filters, classes, images, batches, steps):
    random = np.random.default_rng(len(name))
    keras.utils.set_random_seed(len(name))
    model = build(size, filters, classes)
    small = name != "full"
    if small:
        for layer in model.layers:
            if layer.name.startswith("norm"):
                count = layer.gamma.shape[0]
                layer.gamma.assign(random.uniform(0.5, 1.5, count) * np.where(np.arange(count) % 3 == 1, -1, 1))
                layer.beta.assign(random.uniform(-0.6, 0.1, count))
    pixels, labels = make_images(images, *size, classes)
    save(FOLDER / f"keras_baseline_{name}.safetensors", weights_of(model), size, classes)
    loss_of = (
        keras.losses.BinaryCrossentropy(from_logits=True)
        if classes == 2
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    losses, starts = [], np.cumsum([0, *batches])
    biases = [np.zeros(count) for count in filters]
    for step in range(steps):
        place = step % len(batches)
        rows = slice(starts[place], starts[place + 1])
        y = labels[rows].astype("float32")[:, None]
        for i, average in enumerate(biases, 1):
            average *= 0.99
            average += (1 - 0.99) * model.get_layer(f"conv{i}").bias.numpy()
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(pixels[rows].astype("float32"), training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        losses.append(float(loss))
    norms = [model.get_layer(f"norm{i}") for i in (1, 2, 3)]
    case = {
        "size": size, "classes": classes, "images": images, "batches": batches, "losses": losses,
        "moving_means": [(n.moving_mean.numpy() - b).astype("float32").tolist() for n, b in zip(norms, biases)],
        "moving_variances": [n.moving_variance.numpy().tolist() for n in norms],
    }
    if small:
        save(FOLDER / f"keras_baseline_{name}_after.safetensors", weights_of(model), size, classes)
        logits = model(pixels.astype("float32"), training=False).numpy()
        case["logits_after"] = logits.ravel().tolist()
    print(name, model.count_params(), losses)
    return case


def main():
    cases = {name: run(name, **case) for name, case in CASES.items()}
    made_with = {"keras": keras.__version__, "tensorflow": tf.__version__}
    text = json.dumps({"made_with": made_with, "cases": cases})
    (FOLDER / "keras_baseline.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
