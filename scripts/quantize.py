#!/usr/bin/env python3
"""What `extractor backbone quantize` cannot do itself: onnxruntime's quantiser, and scikit-learn's heads as a judge.

    python3 scripts/quantize.py --venv DIR quantize JOB.json    an ONNX model and batches of images -> an int8 model
    python3 scripts/quantize.py --venv DIR compare JOB.json     pooled features of both models -> the accuracy of heads

Why it exists: onnxruntime's quantiser is Python, and the extractor trains no heads. The extractor writes this script, its
requirements and the job into a temporary folder; which images, how they are preprocessed and what is accepted is its
business and not known here. It needs no other file of the project than export_env.py, which makes the environment.

Activations are u8 with a zero point, weights s8 without one and a scale an output channel, as QuantizeLinear and
DequantizeLinear pairs (QDQ): the pair of types that VNNI multiplies. Results go to stdout as one JSON object, notes to
stderr, an error as one line that begins with `error: `. Exit code 0: done; 1: failed; 2: bad arguments.
"""

import argparse
import contextlib
import json
import signal
import sys
import time
from pathlib import Path

import export_env

REQUIREMENTS = Path(__file__).resolve().parent / "requirements-quantize.txt"
PYTHONS = [(3, 12), (3, 13), (3, 11)]  # those with wheels at the pinned versions
SPACE_BYTES = 1_000_000_000  # the environment takes 0.5 GB on Linux, and pip unpacks before it installs
DOWNLOAD = "about 110 MB"

# Shares of activations between the ends of the range, in percent: what lies beyond is clipped.
PERCENTILE = 99.999
PENALTIES = [0.001, 0.01, 0.1]  # scikit-learn's C of the heads, on standardised features
INNER_SHARE = 0.25  # of a training fold, which the penalty is chosen on
SEED = 0


class Failure(Exception):
    """What went wrong, in one line."""


def log(line):
    print(line, file=sys.stderr, flush=True)


def one_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def quantize(job):
    """`model`, `output`: files; `batches`: .npy files, each one input; `input`: its name; `method`: percentile or minmax;
    `reduce_range`: 7-bit weights. All files lie in the working folder."""
    import numpy as np
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(quantization.CalibrationDataReader):
        """One batch at a time, so that memory is that of one batch's activations."""

        def __init__(self):
            self.at, self.end = 0, len(job["batches"])

        def __len__(self):
            return len(job["batches"])

        def set_range(self, start_index, end_index):
            self.at, self.end = start_index, end_index

        def get_next(self):
            if self.at >= self.end:
                return None
            self.at += 1
            return {job["input"]: np.load(job["batches"][self.at - 1])}

    fused, output = "fused.onnx", "quantized.onnx"
    started = time.monotonic()
    # Folds BatchNorm into convolutions: a scale of its own between the two would be quantised otherwise.
    try:
        quant_pre_process(job["model"], fused)
    except Exception as error:
        log(f"symbolic shape inference fails ({one_line(error)}), going on without")
        quant_pre_process(job["model"], fused, skip_symbolic_shape=True)
    methods = {"percentile": quantization.CalibrationMethod.Percentile, "minmax": quantization.CalibrationMethod.MinMax}
    quantization.quantize_static(
        fused, output, Batches(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
        reduce_range=job["reduce_range"], activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8, calibrate_method=methods[job["method"]],
        extra_options={
            "ActivationSymmetric": False, "WeightSymmetric": True, "CalibStridedMinMax": 1,
            "CalibPercentile": PERCENTILE,
        })  # fmt: skip
    model = onnx.load(output)
    before = onnx.load(job["model"])
    check(before, model)
    # onnxruntime names every domain that it knows.
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.metadata_props[:]
    model.metadata_props.extend(before.metadata_props)
    model.producer_name, model.producer_version = before.producer_name, before.producer_version
    Path(job["output"]).write_bytes(model.SerializeToString(deterministic=True))
    return {
        "quantized_weights": quantized_weights(model),
        "seconds": round(time.monotonic() - started, 1),
        "quantizer": f"onnxruntime {version('onnxruntime')}",
    }


def check(before, after):
    """Refuses a result that could not stand in for the model."""

    def ends(model):
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        return [(value.name, value.type.tensor_type.elem_type) for value in [*inputs, *model.graph.output]]

    if ends(before) != ends(after):
        raise Failure(f"the quantiser changed inputs or outputs from {ends(before)} to {ends(after)}")
    if quantized_weights(after) == 0:
        raise Failure("the quantiser found no weights that it can quantise")


def quantized_weights(model):
    """Weights in 8 bits: those of at least two axes that a DequantizeLinear reads."""
    from onnx import TensorProto

    read = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    tensors = [t for t in model.graph.initializer if t.name in read and len(t.dims) > 1]
    return sum(tensor.data_type == TensorProto.INT8 for tensor in tensors)


def version(package):
    from importlib.metadata import version as installed

    return installed(package)


def compare(job):
    """`features`: .npy files of pooled features [images, channels], the first that of the model to judge by; `labels`: an
    .npy file of class numbers; `folds`."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.load(job["labels"])
    folds = list(StratifiedKFold(job["folds"], shuffle=True, random_state=SEED).split(labels, labels))

    # Each model has the penalty that suits it, chosen inside each training fold, so that no image chooses the head that
    # is judged by it. Log loss, as it tells penalties apart by more than the few images whose label changes.
    inner = StratifiedShuffleSplit(1, test_size=INNER_SHARE, random_state=SEED)
    penalties = {"logisticregression__C": PENALTIES}

    def right(path):
        """Whether each image is told right by the head that did not see it."""
        features = np.load(path).astype(np.float64)
        if not np.isfinite(features).all():
            raise Failure("the model gives features that are no numbers")
        told = np.zeros(len(labels), bool)
        for train, held_out in folds:
            head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-3))
            search = GridSearchCV(head, penalties, scoring="neg_log_loss", cv=inner, error_score="raise")
            search.fit(features[train], labels[train])
            told[held_out] = search.predict(features[held_out]) == labels[held_out]
        return told

    before, after = [right(path) for path in job["features"]]
    difference = after.astype(float) - before.astype(float)  # of the same images, so that their share cancels
    return {
        "accuracy": [float(before.mean()), float(after.mean())],
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        "images": len(labels),
        "folds": job["folds"],
        "solver": f"scikit-learn {version('scikit-learn')} LogisticRegression on standardised features",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, required=True, metavar="DIR", help="the environment to make or use again")
    parser.add_argument("verb", choices=["quantize", "compare"])
    parser.add_argument("job", type=Path, metavar="JOB.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not export_env.inside(options.venv):
            export_env.enter(options.venv, REQUIREMENTS, PYTHONS, SPACE_BYTES, log, DOWNLOAD)
        job = json.loads(options.job.read_text())
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the quantiser reports on stdout, where the answer belongs
                result = {"quantize": quantize, "compare": compare}[options.verb](job)
        except ImportError as error:
            raise Failure(f"environment {options.venv} is broken: {one_line(error)} (hint: delete it, run again)") from error
        except (Failure, OSError, MemoryError):
            raise
        except Exception as error:
            raise Failure(f"{type(error).__name__}: {one_line(error)}") from error
        print(json.dumps(result))
    except (Failure, export_env.EnvironmentFailure, OSError, MemoryError) as error:
        log(f"error: {one_line(error)}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
