#!/usr/bin/env python3
"""Makes backbones of weights with the built binary (`backbone import --weights`) and compares them with TensorFlow.

Keras's own ResNet50 is the reference for Keras's names and v1. For torchvision's names and v1.5 it is the same network
written down once more in Keras, with torchvision's strides, padding and epsilon. Seeded weights; pooled features of
the same inputs must agree to 1e-4 of the largest, at two sizes, one of them odd and not square.

Needs target/release/extractor (make build). `HEADSTART_EXTRACTOR` names another binary. The environment is that of
test_export_resnet50.py.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import export_env
import export_resnet50
from test_export_resnet50 import SCRIPTS, VENV, in_environment

ROOT = SCRIPTS.parent
EXTRACTOR = Path(os.environ.get("HEADSTART_EXTRACTOR", ROOT / "target" / "release" / "extractor"))
SIZES = ((100, 100), (97, 130))
TOLERANCE = 1e-4

# Runs in the environment: the reference models, their weights as safetensors, and the comparison.
COMMON = """
import json, os, struct, sys
os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")
sys.path.insert(0, sys.argv[1])
import keras, numpy as np
from keras import layers
from export_resnet50 import noise_images

def reference(kind, size):
    if kind == "keras":
        return keras.applications.ResNet50(include_top=False, weights=None, input_shape=(*size, 3))
    # torchvision's: pads of its own, never "same", which pads by the image's size.
    def conv_bn(x, name, channels, kernel, stride):
        if kernel > 1:
            x = layers.ZeroPadding2D(kernel // 2)(x)
        x = layers.Conv2D(channels, kernel, stride, use_bias=False, name=name + "_conv")(x)
        return layers.BatchNormalization(epsilon=1e-5, name=name + "_bn")(x)
    images = layers.Input((*size, 3))
    x = layers.ReLU()(conv_bn(images, "conv1", 64, 7, 2))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            name, stride = f"layer{stage}_{block}", 2 if block == 0 and stage > 1 else 1
            y = layers.ReLU()(conv_bn(x, name + "_1", width, 1, 1))
            y = layers.ReLU()(conv_bn(y, name + "_2", width, 3, stride))
            y = conv_bn(y, name + "_3", 4 * width, 1, 1)
            shortcut = conv_bn(x, name + "_0", 4 * width, 1, stride) if block == 0 else x
            x = layers.ReLU()(layers.Add()([shortcut, y]))
    return keras.Model(images, x)

def torch_name(path):
    layer, part = path.split("/")
    place, kind = layer.rsplit("_", 1)
    part = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
            "moving_variance": "running_var"}[part]
    if place == "conv1":
        return f"{'conv1' if kind == 'conv' else 'bn1'}.{part}"
    stage, block, n = place.split("_")
    if n == "0":
        return f"{stage}.{block}.downsample.{0 if kind == 'conv' else 1}.{part}"
    return f"{stage}.{block}.{kind}{n}.{part}"

def save(path, tensors):
    header, data = {}, b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + data)
"""

WEIGHTS = COMMON + """
kind, out = sys.argv[2:]
rng = np.random.default_rng(11)
keras.utils.set_random_seed(11)
model = reference(kind, (100, 100))
for layer in model.layers:
    if hasattr(layer, "moving_variance"):
        layer.momentum = 0.0  # the statistics are those of the batch below
        layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape) * (0.25 if "_3_bn" in layer.name else 1))
        layer.beta.assign(rng.normal(0, 0.1, layer.beta.shape))
    elif getattr(layer, "bias", None) is not None:
        layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
model(noise_images(rng, 16, 100), training=True)
model.save_weights(out + ".weights.h5")
named = {weight.path: np.asarray(weight) for weight in model.weights}
if kind == "torchvision":
    named = {torch_name(path): v.transpose(3, 2, 0, 1) if v.ndim == 4 else v for path, v in named.items()}
save(out + ".safetensors", named)
"""

COMPARE = COMMON + """
import onnxruntime
kind, weights, onnx, height, width = sys.argv[2:]
size = int(height), int(width)
model = reference(kind, size)
model.load_weights(weights)
images = np.random.default_rng(5).random((3, *size, 3), np.float32)
expected = np.asarray(model(images, training=False)).mean((1, 2))  # [N, C]
session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
got = session.run(["features"], {"input": images})[0].mean((1, 2))
print(json.dumps({"difference": float(np.abs(got - expected).max() / np.abs(expected).max()),
                  "spread": float(expected.std())}))
"""


class Weights(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        requirements, pythons = export_resnet50.REQUIREMENTS, export_resnet50.PYTHONS
        export_env.prepare(VENV, requirements, pythons, export_resnet50.SPACE_BYTES, lambda line: print(line))
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.folder = Path(cls.temporary.name)
        for kind in ("keras", "torchvision"):
            in_environment(WEIGHTS, SCRIPTS, kind, cls.folder / kind)

    def imported(self, kind, size, *flags):
        out = self.folder / "out.onnx"
        for left in [out, out.with_suffix(".toml")]:  # a backbone that is there is not replaced
            left.unlink(missing_ok=True)
        command = [EXTRACTOR, "backbone", "import", "--weights", self.folder / f"{kind}.safetensors", "--json"]
        command += ["--preset", "raw", "--input-size", "{}x{}".format(*size), "--out", out, *flags]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
        self.assertEqual(done.returncode, 0, done.stderr)
        weights = self.folder / f"{kind}.weights.h5"
        compared = in_environment(COMPARE, SCRIPTS, kind, weights, out, *size)
        return json.loads(done.stdout), json.loads(compared.splitlines()[-1])

    def agree(self, kind, variant, parameters):
        for size in SIZES:
            said, compared = self.imported(kind, size)
            self.assertEqual((said["variant"], said["parameters"]), (variant, parameters))
            print(f"{kind} {variant} {size}: pooled features differ by {compared['difference']:.1e} of the largest")
            self.assertLess(compared["difference"], TOLERANCE)
            self.assertGreater(compared["spread"], 0.01)

    def test_keras(self):
        self.agree("keras", "v1", 23_587_712)

    def test_torchvision(self):
        self.agree("torchvision", "v1.5", 23_508_032)

    def test_the_other_variant_is_another_network(self):
        for kind, variant in (("keras", "v1.5"), ("torchvision", "v1")):
            _, compared = self.imported(kind, SIZES[0], "--variant", variant)
            print(f"{kind} as {variant}: {compared['difference']:.1e}")
            self.assertGreater(compared["difference"], 0.01)


if __name__ == "__main__":
    unittest.main()
