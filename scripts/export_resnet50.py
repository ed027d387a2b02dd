#!/usr/bin/env python3
"""Exports Keras' ResNet50 without its top to ONNX and compares the two before it reports success.

    python3 scripts/export_resnet50.py                            ImageNet weights, downloaded and verified by Keras
    python3 scripts/export_resnet50.py --weights FILE.h5          weights from a file
    python3 scripts/export_resnet50.py --weights none --seed 1    random weights, for tests and timings

Why it exists: the feature maps should be those of `tf.keras.applications.ResNet50(include_top=False)`, and only
Keras can say what those are. It writes `resnet50.onnx` and, beside it, the description `resnet50.toml`.

Any Python 3.9 or later starts it: it makes its own environment (export_env.py) and runs the rest there. The graph is
written by export_graph.py. Results go to stdout, everything else to stderr. Exit code 0: done; 1: failed, with the
earlier files untouched; 2: bad arguments.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import export_env

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).resolve().parent / "requirements-export.txt"
PYTHONS = [(3, 12), (3, 11), (3, 13), (3, 10)]  # those with TensorFlow wheels at the pinned version
SPACE_BYTES = 2_500_000_000  # the environment takes 1.7 GB on Linux, and pip unpacks before it installs
PARAMETERS = 23_587_712
PUBLISHED_NAME = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
PUBLISHED_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{PUBLISHED_NAME}"
PUBLISHED_MD5 = "4d473c1dd8becc155b73f8504c6f6626"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MINIMUM_SIZE = 32  # Keras refuses smaller images
CALIBRATION_SIZE = 100
CALIBRATION_IMAGES = 32
BRANCH_STRENGTH = 0.25
TOLERANCE = 1e-4  # of the maps' largest value


class ExportFailure(Exception):
    """What went wrong and what to do about it, in one line."""


def parse(arguments):
    parser = argparse.ArgumentParser(
        description="Export Keras' ResNet50 without its top to ONNX, and check the ONNX against Keras.",
        epilog="exit code 0: done; 1: failed, earlier files untouched; 2: bad arguments",
    )
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|none|FILE.h5",
        help="imagenet: Keras downloads and verifies them; none: random, needs --seed; or a Keras weights file "
        "(default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="seed of --weights none, 0 to 4294967295")
    parser.add_argument("--size", type=int, default=100, metavar="PIXELS", help="image side (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.onnx",
        default=ROOT / "data" / "backbones" / "resnet50.onnx",
        help="the model; its description goes beside it as .toml (default: data/backbones/resnet50.onnx)",
    )
    parser.add_argument(
        "--venv",
        type=Path,
        metavar="DIR",
        default=ROOT / ".venv" / "export",
        help="the environment to make or use again (default: .venv/export)",
    )
    parser.add_argument("--quiet", action="store_true", help="print results and errors only")
    options = parser.parse_args(arguments)

    if options.weights == "none" and options.seed is None:
        parser.error("--weights none needs a seed (hint: add --seed 1)")
    if options.weights != "none" and options.seed is not None:
        parser.error(f"--seed {options.seed} has no meaning with --weights {options.weights} (hint: leave it out)")
    if options.seed is not None and not 0 <= options.seed < 2**32:
        parser.error(f"--seed {options.seed} is not between 0 and 4294967295")
    if options.size < MINIMUM_SIZE:
        parser.error(f"--size {options.size} is below {MINIMUM_SIZE}, the smallest image ResNet50 takes")
    if options.out.suffix != ".onnx" or options.out.is_dir():
        parser.error(f"--out {options.out} is not a file name that ends in .onnx")
    options.weights_file = None
    if options.weights not in ("imagenet", "none"):
        options.weights_file = Path(options.weights)
        if options.weights_file.suffix != ".h5" or not options.weights_file.is_file():
            parser.error(f"--weights {options.weights} is neither imagenet, none, nor an .h5 file that exists")
    return options


def check_weights_file(path):
    """Refuses what cannot be a Keras weights file; returns its MD5 and SHA-256."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with open(path, "rb") as file:
            start = file.read(len(HDF5_MAGIC))
            file.seek(0)
            for chunk in iter(lambda: file.read(1 << 20), b""):
                md5.update(chunk)
                sha256.update(chunk)
    except OSError as error:
        raise ExportFailure(f"cannot read weights file {path}: {error.strerror}") from error
    if start != HDF5_MAGIC:
        raise ExportFailure(
            f"weights file {path} is not an HDF5 file (hint: it should be a Keras .h5 file, such as {PUBLISHED_URL})"
        )
    if path.name == PUBLISHED_NAME and md5.hexdigest() != PUBLISHED_MD5:
        raise ExportFailure(
            f"weights file {path} has the published file's name but MD5 {md5.hexdigest()}, expected {PUBLISHED_MD5} "
            f"(hint: download {PUBLISHED_URL} again, or rename the file if the weights are your own)"
        )
    return md5.hexdigest(), sha256.hexdigest()


def check_output_folder(out):
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportFailure(f"cannot make folder {out.parent}: {error.strerror} (hint: --out elsewhere)") from error
    if not os.access(out.parent, os.W_OK):
        raise ExportFailure(f"folder {out.parent} cannot be written to (hint: --out elsewhere)")


def import_keras(venv):
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the check compares two CPU results
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # its sums depend on the processor and the number of threads
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        import keras
        import tensorflow

        import export_graph  # noqa: F401, imports onnx
    except Exception as error:
        raise ExportFailure(f"environment {venv} is broken: {one_line(error)} (hint: delete it, run again)") from error
    # Same seed, same weights: sums in one order, which a number of threads would otherwise choose.
    tensorflow.config.experimental.enable_op_determinism()
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    return tensorflow, keras


def build(tensorflow, size, weights=None):
    return tensorflow.keras.applications.ResNet50(include_top=False, weights=weights, input_shape=(size, size, 3))


def imagenet_model(tensorflow, options):
    try:
        return build(tensorflow, options.size, "imagenet")
    except Exception as error:  # Keras raises plain Exception for a failed download, ValueError for a bad hash
        reason = one_line(error).rsplit(" -- ", 1)[-1]  # what stands before repeats the address
        raise ExportFailure(
            f"the ImageNet weights could not be downloaded: {reason} (hint: go online; or download "
            f"{PUBLISHED_URL} elsewhere and pass --weights FILE.h5; or try without: --weights none --seed 1)"
        ) from error


def file_model(tensorflow, options):
    path = options.weights_file
    model = build(tensorflow, options.size)
    before = weights_digest(model)
    try:
        model.load_weights(path)
    except Exception as error:
        raise ExportFailure(
            f"weights file {path} does not fit ResNet50 without its top: {one_line(error)} "
            "(hint: it must come from ResNet50(include_top=False))"
        ) from error
    if weights_digest(model) == before:
        raise ExportFailure(f"weights file {path} changed no weight (hint: is it an optimizer's state?)")
    return model


def random_model(tensorflow, keras, options):
    """Random weights whose batch normalisation has seen one batch, as a trained one has seen many.

    With Keras' initial statistics (mean 0, variance 1) the maps shrink or grow layer upon layer; with those of a
    batch they stay near 1, for any image not far outside what the batch held. Each block adds little to what it
    passes on, as in trained networks: at full strength fifty random layers grow float32's rounding a thousandfold,
    and the check could not tell that from an error. The batch is always of one size, so the weights do not depend on
    --size.
    """
    import numpy as np

    keras.utils.set_random_seed(options.seed)
    model = build(tensorflow, CALIBRATION_SIZE)
    images = noise_images(np.random.default_rng(options.seed), CALIBRATION_IMAGES, CALIBRATION_SIZE)
    for layer in model.layers:
        if hasattr(layer, "moving_variance"):
            layer.momentum = 0.0  # take the batch's statistics as they are
            if layer.name.endswith("_3_bn"):  # the last of a block, before the sum
                layer.gamma.assign(layer.gamma * BRANCH_STRENGTH)
    model(images, training=True)
    if options.size == CALIBRATION_SIZE:
        return model
    resized = build(tensorflow, options.size)
    resized.set_weights(model.get_weights())
    return resized


def noise_images(rng, count, size):
    """Images [count, size, size, 3] in [0, 1] that differ in colour, contrast and coarseness.

    They differ on purpose: statistics of images that are alike let any other image blow the maps up a hundredfold.
    """
    import numpy as np

    coarseness = (2, 5, 20, 100)  # squares along a side
    shares = rng.dirichlet([0.5] * len(coarseness), count)  # [count, coarseness]
    pattern = np.full((count, size, size, 3), -0.5)
    for squares, share in zip(coarseness, shares.T):
        side = -(-size // squares)
        noise = rng.random((count, squares, squares, 3)).repeat(side, axis=1).repeat(side, axis=2)
        pattern += share[:, None, None, None] * noise[:, :size, :size]
    colour = rng.random((count, 1, 1, 3))
    contrast = rng.uniform(0, 4, (count, 1, 1, 1))
    return np.clip(colour + contrast * pattern, 0, 1).astype(np.float32)


def weights_digest(model):
    """SHA-256 over every weight's name, shape and little-endian float32 values, in the model's order."""
    import numpy as np

    digest = hashlib.sha256()
    for weight in model.weights:
        values = np.ascontiguousarray(weight, "<f4")
        digest.update(f"{weight.path} {list(values.shape)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def check_batches(preset, size):
    """Random images as the preset leaves them: [N, S, S, 3] float32."""
    import numpy as np

    rng = np.random.default_rng(0)
    for count in (1, 3, 1, 3):
        images = rng.random((count, size, size, 3), np.float32)
        if preset == "caffe":
            images = images * 255 - np.array([103.939, 116.779, 123.68], np.float32)  # BGR means of ImageNet
        yield images


def describe(size, preset, trained, note):
    def text(value):
        return json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False)

    return (
        'name = "resnet50"\n'
        f"preset = {text(preset)}\n"
        f"input_size = [{size}, {size}]\n"
        'feature_tensor = "features"\n'
        f"trained = {'true' if trained else 'false'}\n"
        f"note = {text(note)}\n"
    )


def export(options, published, log):
    log("loading TensorFlow")
    tensorflow, keras = import_keras(options.venv)
    import export_graph

    # The description of the weights, before the work on them.
    preset, trained = "caffe", True
    if options.weights == "imagenet" or published:
        weights = "imagenet"
        note = "Keras ResNet50 without its top, ImageNet weights; NHWC, BGR minus the channel means"
    elif options.weights_file:
        weights = f"file {options.weights_file.name}"
        note = f"Keras ResNet50 without its top, weights from {options.weights_file.name}; preset caffe is assumed"
        print(f"warning: assuming the weights in {options.weights_file} expect preset caffe", file=sys.stderr)
    else:
        weights, preset, trained = f"none seed {options.seed}", "unit", False
        note = (
            f"Keras ResNet50 without its top, random weights of seed {options.seed}: "
            "for tests and timings, its features fit nothing in particular"
        )

    log(f"building ResNet50 for {options.size} x {options.size} pixels, weights {weights}")
    if options.weights == "imagenet":
        model = imagenet_model(tensorflow, options)
    elif options.weights_file:
        model = file_model(tensorflow, options)
    else:
        model = random_model(tensorflow, keras, options)
    if model.count_params() != PARAMETERS:
        raise ExportFailure(f"the model has {model.count_params()} parameters, expected {PARAMETERS}")

    digest = weights_digest(model)
    metadata = {
        "source": f"tf.keras.applications.ResNet50(include_top=False, input_shape=({options.size}, {options.size}, 3))",
        "tensorflow_version": tensorflow.__version__,
        "keras_version": keras.__version__,
        "weights": weights,
        "weights_sha256": digest,
        "parameters": str(PARAMETERS),
        "preset": preset,
    }
    try:
        onnx_model = export_graph.to_onnx(model, metadata)
    except export_graph.UnsupportedLayer as error:
        raise ExportFailure(f"the model changed: {error} (hint: delete {options.venv} for the pinned Keras)") from error
    if export_graph.parameter_count(onnx_model) != PARAMETERS:
        raise ExportFailure(f"the graph has {export_graph.parameter_count(onnx_model)} parameters, not {PARAMETERS}")

    out, toml = options.out, options.out.with_suffix(".toml")
    temporary = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in (out, toml)]
    try:
        content = onnx_model.SerializeToString(deterministic=True)
        write_synced(temporary[0], content)
        log("comparing ONNX Runtime with Keras on random images")
        try:
            batches = check_batches(preset, options.size)
            error, mean, largest = export_graph.compare(temporary[0], model, batches)
        except Exception as problem:
            raise ExportFailure(f"the exported model fails its check: {one_line(problem)}") from problem
        log(f"feature maps have mean {mean:.3g} and maximum {largest:.3g}")
        if not error <= TOLERANCE:
            raise ExportFailure(f"ONNX Runtime and Keras differ by {error:.2g} of the largest value, over {TOLERANCE}")
        write_synced(temporary[1], describe(options.size, preset, trained, note).encode())
        os.replace(temporary[0], out)
        os.replace(temporary[1], toml)
    except OSError as error:
        raise ExportFailure(f"cannot write {error.filename or out}: {error.strerror}") from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)

    return {
        "model": out,
        "description": toml,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "weights": weights,
        "weights_sha256": digest,
        "parameters": PARAMETERS,
        "features": f"[N, {', '.join(str(side) for side in model.output_shape[1:])}]",
        "max_relative_error": f"{error:.2g}",
    }


def write_synced(path, content):
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def one_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def main():
    options = parse(sys.argv[1:])

    def log(line):
        if not options.quiet:
            print(line, file=sys.stderr, flush=True)

    # A stopped export removes its temporary files too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        # All that can fail cheaply fails before the environment is made.
        check_output_folder(options.out)
        published = bool(options.weights_file) and check_weights_file(options.weights_file)[0] == PUBLISHED_MD5
        if not export_env.inside(options.venv):
            export_env.enter(options.venv, REQUIREMENTS, PYTHONS, SPACE_BYTES, log)
        with contextlib.redirect_stdout(sys.stderr):  # Keras reports its download on stdout, where results belong
            results = export(options, published, log)
        for key, value in results.items():
            print(f"{key:<18} {value}")
    except (ExportFailure, export_env.EnvironmentFailure) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
