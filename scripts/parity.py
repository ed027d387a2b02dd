#!/usr/bin/env python3
"""Compares this project's features with Keras's: for the same pixels, and from JPEG files.

    python3 scripts/parity.py                       random weights of a seed, for tests
    python3 scripts/parity.py --weights imagenet    the real ones, downloaded and verified by Keras
    python3 scripts/parity.py --json --images DIR   one JSON object; other JPEG files, one folder a class

Why it exists: a head that was trained here should be one for `tf.keras.applications.ResNet50`. It exports that with
export_resnet50.py, runs `extractor features` on images, and Keras on the same: on PNG files of the input's own size,
where nothing but the backbone can differ, and on JPEG files, where TensorFlow decodes (with its default, fast DCT, and
with the accurate one) and resizes. Pixels and resized inputs of this project are seen through backbones that hand
their input on.

It runs in the export's environment (export_env.py), the store is read in that of test_read_store.py. Needs
target/release/extractor (make build) and ONNX Runtime (make runtime). Without --images it takes the reference images
of `HEADSTART_TEST_DATA`, or else drawings of `extractor sample`. Exit code 0: the features agree where they must; 1: not
so, or it failed; 2: bad arguments.
"""

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))
import export_env  # noqa: E402
import export_resnet50 as resnet50  # noqa: E402
from test_read_store import PYTHON, make_environment  # noqa: E402

ROOT = SCRIPTS.parent
EXTRACTOR = Path(os.environ.get("HEADSTART_EXTRACTOR", ROOT / "target" / "release" / "extractor"))
DRAWINGS = 8  # a class
TOLERANCE = 1e-4  # of the largest pooled feature, for the same pixels
PRESETS = ["caffe", "unit"]
CAFFE_MEAN_BGR = [103.939, 116.779, 123.68]

# In the readers' environment: a store's maps by id, as one file.
READ_STORE = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from read_store import batches
found = {}
for shard in sorted(Path(sys.argv[2]).glob("*.arrow")):
    for _, ids, _, maps in batches(shard):
        found.update((id.as_py().hex(), map.astype(np.float32)) for id, map in zip(ids, maps))
np.savez(sys.argv[3], **found)
"""


class ParityFailure(Exception):
    """What went wrong and what to do about it, in one line."""


def parse():
    parser = argparse.ArgumentParser(
        description="Compare this project's features with Keras's.",
        epilog="exit code 0: they agree where they must; 1: they do not, or it failed; 2: bad arguments",
    )
    parser.add_argument("--weights", default="none", metavar="none|imagenet|FILE.h5", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of --weights none (default: %(default)s)")
    parser.add_argument("--size", type=int, default=100, metavar="PIXELS", help="image side (default: %(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="JPEG files, one folder a class")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--venv", type=Path, default=Path(os.environ.get("HEADSTART_EXPORT_VENV", ROOT / ".venv" / "export")),
        metavar="DIR", help="the export's environment (default: .venv/export)",
    )
    return parser.parse_args()


def log(line):
    print(line, file=sys.stderr, flush=True)


def run(command):
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ParityFailure(f"`{' '.join(command)}` exited {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def jpegs(options, folder):
    """JPEG files, in order."""
    if options.images:
        files = sorted(p for p in options.images.glob("*/*") if p.suffix.lower() in (".jpg", ".jpeg"))
        if not files:
            raise ParityFailure(f"{options.images} has no folders of JPEG files (hint: DIR/Cat/1.jpg, DIR/Dog/1.jpg)")
        return files
    data = os.environ.get("HEADSTART_TEST_DATA")
    if data:
        names = (Path(data) / "reference" / "files.txt").read_text().split()
        return [Path(data) / "pets" / name for name in names]
    run([EXTRACTOR, "sample", folder / "sample", "--per-class", DRAWINGS, "--json"])
    return sorted((folder / "sample").glob("*/*.jpg"))


class Ours:
    """This project's feature maps of images."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def maps(self, contents, suffix, backbone, *flags):
        """Maps [N, H, W, C] of images that are given by their files' contents."""
        self.count += 1
        place = self.folder / f"ours-{self.count}"
        ids = []
        for n, content in enumerate(contents):
            label = place / "images" / ("a" if n % 2 else "b")
            label.mkdir(parents=True, exist_ok=True)
            (label / f"{n:03}{suffix}").write_bytes(content)
            ids.append(hashlib.sha256(content).hexdigest())
        store = run([
            EXTRACTOR, "features", place / "images", "--backbone", backbone, "--store", place / "store",
            "--index", place / "index.arrow", "--dtype", "f32", "--ep", "cpu", "--json", "--quiet",
            "--data-dir", ROOT / "data", *flags,
        ])
        found = place / "maps.npz"
        run([PYTHON, "-c", READ_STORE, SCRIPTS, json.loads(store)["store"], found])
        import numpy as np

        with np.load(found) as maps:
            return np.stack([maps[id] for id in ids])


def handing_on(path, size):
    """A backbone whose feature map is its input: RGB from 0 to 255, [N, H, W, 3]."""
    import onnx
    from onnx import TensorProto, helper

    height, width = size
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", height, width, 3])
    same = helper.make_tensor_value_info("same", TensorProto.FLOAT, ["N", height, width, 3])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["same"])], "same", [image], [same])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    path.with_suffix(".toml").write_text('preset = "raw"\ninput_layout = "nhwc"\nfeature_layout = "nhwc"\n')
    return path


def preprocessed(rgb, preset):
    """What a preset makes of RGB from 0 to 255, [N, S, S, 3]."""
    import numpy as np

    if preset == "unit":
        return rgb / np.float32(255)
    return rgb[..., ::-1] - np.array(CAFFE_MEAN_BGR, np.float32)


def pooled(maps):
    return maps.mean(axis=(1, 2), dtype="f8")  # [N, C]


def distance(ours, theirs):
    """Largest and mean |difference|, and for pooled features relative to the largest, and the least cosine."""
    import numpy as np

    off = np.abs(ours.astype(np.float64) - theirs)
    figures = {"max": float(off.max()), "mean": float(off.mean())}
    if ours.ndim == 2:
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        figures["relative"] = figures["max"] / float(np.abs(theirs).max())
        figures["least_cosine"] = float(((ours * theirs).sum(axis=1) / norms).min())
    return figures


def compare(options, folder):
    log("loading TensorFlow")
    tensorflow, keras = resnet50.import_keras(options.venv)
    import numpy as np

    make_environment()
    tensorflow.get_logger().setLevel("ERROR")
    flags = ["--weights", options.weights, "--size", str(options.size), "--out", str(folder / "resnet50.onnx")]
    flags += ["--seed", str(options.seed)] if options.weights == "none" else []
    log("exporting ResNet50")
    printed = run([sys.executable, "-E", "-s", SCRIPTS / "export_resnet50.py", *flags, "--quiet", "--venv", options.venv])
    exported = dict(line.split(None, 1) for line in printed.splitlines())
    chosen = resnet50.parse(flags)
    if options.weights == "none":
        model = resnet50.random_model(tensorflow, keras, chosen)
    elif options.weights == "imagenet":
        model = resnet50.imagenet_model(tensorflow, chosen)
    else:
        model = resnet50.file_model(tensorflow, chosen)
    if resnet50.weights_digest(model) != exported["weights_sha256"]:
        raise ParityFailure("the weights here are not those that were exported")

    files = [path.read_bytes() for path in jpegs(options, folder)]
    size = [options.size, options.size]
    decodes = {"fast": "INTEGER_FAST", "accurate": "INTEGER_ACCURATE"}
    decoded = {
        name: [tensorflow.io.decode_jpeg(file, channels=3, dct_method=method).numpy() for file in files]
        for name, method in decodes.items()
    }

    def resized(images):  # bilinear, half-pixel centres, no antialiasing
        return np.stack([tensorflow.image.resize(image.astype(np.float32), size).numpy() for image in images])

    theirs = {name: resized(images) for name, images in decoded.items()}  # [N, S, S, 3], 0 to 255
    ours = Ours(folder)

    log("the same pixels")
    rounded = np.rint(theirs["fast"]).astype(np.uint8)
    pngs = [tensorflow.io.encode_png(image).numpy() for image in rounded]
    same_pixels = {}
    expected = {}
    for preset in PRESETS:
        got = ours.maps(pngs, ".png", folder / "resnet50.onnx", "--preset", preset)
        keras_maps = model.predict(preprocessed(rounded.astype(np.float32), preset), verbose=0)
        same_pixels[preset] = distance(pooled(got), pooled(keras_maps))

    log("JPEG files")
    shapes = [image.shape for image in decoded["fast"]]
    shape = max(sorted(set(shapes)), key=shapes.count)  # those of the commonest size are seen undistorted
    common = [n for n, s in enumerate(shapes) if s == shape]
    whole = handing_on(folder / "whole.onnx", shape[:2])
    pixels = ours.maps([files[n] for n in common], ".jpg", whole)
    inputs = ours.maps(files, ".jpg", handing_on(folder / "input.onnx", size))
    for preset in PRESETS:
        expected[preset] = pooled(ours.maps(files, ".jpg", folder / "resnet50.onnx", "--preset", preset))
    from_jpeg = {}
    for name in decodes:
        from_jpeg[name] = {
            "decoded": distance(pixels, np.stack([decoded[name][n] for n in common])),
            "resized": distance(inputs, theirs[name]),
        }
        for preset in PRESETS:
            keras_maps = model.predict(preprocessed(theirs[name], preset), verbose=0)
            from_jpeg[name][f"pooled_{preset}"] = distance(expected[preset], pooled(keras_maps))
    # The resize alone: TensorFlow's of the very pixels that this project decoded.
    resize = distance(inputs[common], resized(list(pixels)))
    # All but the decoder: Keras on the very input that this project resized.
    same_input = {}
    for preset in PRESETS:
        keras_maps = model.predict(preprocessed(inputs, preset), verbose=0)
        same_input[preset] = distance(expected[preset], pooled(keras_maps))
    return {
        "weights": exported["weights"],
        "weights_sha256": exported["weights_sha256"],
        "tensorflow": tensorflow.__version__,
        "images": len(files),
        "input_size": size,
        "tolerance": TOLERANCE,
        "same_pixels": same_pixels,
        "same_input": same_input,
        "resize": resize,
        "from_jpeg": from_jpeg,
    }


def table(result):
    """The figures for people."""
    lines = [
        f"Keras ResNet50 (TensorFlow {result['tensorflow']}), weights {result['weights']}, {result['images']} images",
        f"{'':<44}{'max':>10}{'mean':>10}{'relative':>10}{'cosine':>10}",
    ]

    def row(name, figures):
        text = f"{name:<44}{figures['max']:>10.2g}{figures['mean']:>10.2g}"
        if "relative" in figures:
            text += f"{figures['relative']:>10.1e}{figures['least_cosine']:>10.6f}"
        lines.append(text)

    for preset, figures in result["same_pixels"].items():
        row(f"same pixels (PNG), pooled, {preset}", figures)
    for preset, figures in result["same_input"].items():
        row(f"JPEG, same resized input, pooled, {preset}", figures)
    row("JPEG, resize alone (0 to 255)", result["resize"])
    for name, stages in result["from_jpeg"].items():
        for stage, figures in stages.items():
            unit = "" if stage.startswith("pooled") else " (0 to 255)"
            row(f"JPEG, TensorFlow's {name} DCT, {stage.replace('_', ', ')}{unit}", figures)
    return "\n".join(lines)


def main():
    options = parse()
    try:
        if not export_env.inside(options.venv):
            export_env.enter(options.venv, resnet50.REQUIREMENTS, resnet50.PYTHONS, resnet50.SPACE_BYTES, log)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            result = compare(options, Path(folder))
    except (ParityFailure, resnet50.ExportFailure, export_env.EnvironmentFailure) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result) if options.json else table(result))
    both = [*result["same_pixels"].values(), *result["same_input"].values()]
    worst = max(figures["relative"] for figures in both)
    if not worst <= TOLERANCE:
        print(f"error: pooled features differ by {worst:.1e} of the largest, over {TOLERANCE}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
