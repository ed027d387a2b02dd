#!/usr/bin/env python3
"""Builds the Keras model that a head was exported for, and checks it against the run's own probabilities.

    python3 THIS.py                      build and check
    python3 THIS.py --save model.keras   and save it
    python3 THIS.py IMAGE ...            and say what images show, decoded and resized by TensorFlow

The weights lie beside this file, under its name with `.safetensors`. From Python, `build(load()[0])` is the model: what
`preprocessed` makes of RGB in; one probability (of the second class), or one a class, out; the temperature is in its
weights. Needs TensorFlow 2.16 or later. Exit code 0: the probabilities agree; 1: they do not.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

WEIGHTS = Path(__file__).with_suffix(".safetensors")
TOLERANCE = 1e-4  # Keras sums in another order than ONNX Runtime
AS_IN_KERAS = (2, 3, 1, 0)  # [out, in, H, W] to [H, W, in, out]


def load(path=WEIGHTS):
    """The tensors by name, and the metadata, of a safetensors file of float32 tensors."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(content[start + begin:start + end], "<f4").reshape(entry["shape"])
    return tensors, metadata


def preprocessed(images, metadata):
    """What the model takes, of images [N, H, W, 3], RGB from 0 to 255."""
    images = np.array(images, np.float32)
    if metadata["preset"] == "caffe":
        return tf.keras.applications.resnet50.preprocess_input(images)
    return images / np.float32(255)


def build(tensors):
    """ResNet50 without its top, the mean of each channel, one dense layer."""
    size = tensors["images"].shape[1:]  # [H, W, 3]
    resnet = tf.keras.applications.ResNet50(include_top=False, weights=None, input_shape=size)
    taken = 0
    for layer in resnet.layers:
        for name in ["kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"]:
            values = tensors.get(f"{layer.name}/{name}")
            if values is not None:
                getattr(layer, name).assign(values.transpose(AS_IN_KERAS) if name == "kernel" else values)
                taken += values.size
    if taken != resnet.count_params():
        raise SystemExit(f"error: {WEIGHTS} has {taken} of the {resnet.count_params()} parameters of ResNet50")
    resnet.trainable = False

    inputs = tf.keras.Input(size)
    pooled = tf.keras.layers.GlobalAveragePooling2D()(resnet(inputs, training=False))
    outputs = len(tensors["head/bias"])
    activation = "sigmoid" if outputs == 1 else "softmax"
    head = tf.keras.layers.Dense(outputs, activation=activation, name="head")
    model = tf.keras.Model(inputs, head(pooled))
    head.set_weights([tensors["head/kernel"], tensors["head/bias"]])
    return model


def probabilities(model, inputs):
    """[N, K] of preprocessed images."""
    found = model.predict(inputs, verbose=0)
    return np.concatenate([1 - found, found], axis=1) if found.shape[1] == 1 else found


def main():
    parser = argparse.ArgumentParser(description="Build the exported Keras model and check it.")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="say what these show")
    parser.add_argument("--save", metavar="FILE.keras", help="save the model")
    options = parser.parse_args()
    tensors, metadata = load()
    model = build(tensors)
    off = np.abs(probabilities(model, preprocessed(tensors["images"], metadata)) - tensors["probabilities"]).max()
    print(f"probabilities differ by {off:.1e} at most from the run's")
    if not off <= TOLERANCE:
        print(f"error: that is over {TOLERANCE}", file=sys.stderr)
        return 1
    labels = json.loads(metadata["labels"])
    size = tensors["images"].shape[1:3]
    for path in options.images:
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        image = tf.image.resize(tf.cast(image, tf.float32), size)
        found = probabilities(model, preprocessed(image[None], metadata))[0]
        if len(labels) == 2:
            label = int(found[1] > float(metadata["threshold"]))
        else:
            label = int(found.argmax())
        print(f"{labels[label]}\t{found[label]:.6f}\t{path}")
    if options.save:
        model.save(options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
