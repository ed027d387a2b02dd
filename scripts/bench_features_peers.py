"""What scripts/bench_features.py runs inside the environments: the images, and one library answering once a round.

    python bench_features_peers.py prepare IMAGES OUT COUNT PRESET  (.venv/peers) the files and the input they come to
    python bench_features_peers.py stores STORE OTHER               (.venv/peers) how alike two feature stores are
    python bench_features_peers.py engines FOLDER                   (.venv/peers) how alike the engines' features are
    python bench_features_peers.py serve LIBRARY SETTINGS           raw in .venv/peers, the others in .venv/bench

A served library reads the name of a task a line, runs it, and answers with the seconds; starting, loading, compiling
and a first run are over before it says that it is ready. All run the same ResNet50 (version 1: the stride is in the 1x1
convolution), the engines from the very same ONNX file; PyTorch and Keras hold random weights, which cost the same.
PyTorch's tasks, on a GPU, too, are in bench_features_torch.py. It must not know what is done with the figures.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

BATCH, SIDE = 64, 100
LARGE = (500, 375)
CAFFE_MEAN_BGR = [103.939, 116.779, 123.68]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
COMPARED = 64  # images whose pooled features are compared


# ---- the images ---------------------------------------------------------------------------------


def preprocessed(rgb, preset):
    """What a preset makes of RGB from 0 to 255, [..., 3]."""
    import numpy as np

    if preset == "caffe":
        return rgb[..., ::-1] - np.array(CAFFE_MEAN_BGR, np.float32)
    if preset == "imagenet":
        return (rgb / np.float32(255) - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return rgb if preset == "raw" else rgb / np.float32(255)


def readable_jpegs(images, count):
    """The bytes, class and size of `count` different JPEG files, the classes in turn."""
    import io

    from PIL import Image

    classes = [sorted(folder.iterdir()) for folder in sorted(images.iterdir()) if folder.is_dir()]
    files = [file for _, file in sorted((n, file) for folder in classes for n, file in enumerate(folder))]
    found, seen = [], set()
    for file in files:
        if len(found) == count:
            break
        content = file.read_bytes() if file.is_file() else b""
        digest = hashlib.sha256(content).digest()
        try:
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                image.load()
                size = image.size
        except OSError:
            continue
        if digest not in seen:
            seen.add(digest)
            found.append((content, file.parent.name, size))
    return found


def prepare(images, out, count, preset):
    """Writes the files as they are and enlarged, and the input that they come to, inputs.npy [N, 100, 100, 3]."""
    import io

    import numpy as np
    from PIL import Image

    found = readable_jpegs(images, count)
    if len(found) < count:
        hint = f"hint: --images {len(found)}" if found else "hint: one sub-folder a class"
        sys.exit(f"error: {images} has {len(found)} different JPEG files, {count} are needed ({hint})")
    sizes = {size for _, _, size in found}
    as_given = "{}x{}".format(*sizes.pop()) if len(sizes) == 1 else "mixed sizes"
    large = "{}x{}".format(*LARGE)
    sets = {as_given: out / "as-given", **({large: out / "large"} if as_given != large else {})}
    inputs = np.empty((count, SIDE, SIDE, 3), np.float32)
    for n, (content, label, _) in enumerate(found):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        rgb = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
        inputs[n] = preprocessed(rgb, preset)
        for name, folder in sets.items():
            file = folder / label / f"{n:06}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            if name == as_given:
                file.write_bytes(content)
            else:
                image.resize(LARGE, Image.Resampling.BICUBIC).save(file, quality=90)
    np.save(out / "inputs.npy", inputs)
    described = [
        {"name": name, "folder": str(folder), "bytes": sum(file.stat().st_size for file in folder.glob("*/*"))}
        for name, folder in sets.items()
    ]
    print(json.dumps({"images": count, "sets": described}))


def alike(a, b):
    """The least cosine of the rows of one [N, C] with those of another."""
    return float(((a * b).sum(1) / ((a * a).sum(1) * (b * b).sum(1)) ** 0.5).min())


def compare_stores(store, other):
    """Prints the least cosine of two stores' pooled features of the same image."""
    import numpy as np
    from read_store import batches

    def pooled(folder):
        rows = {}
        for shard in sorted(Path(folder).glob("*.arrow")):
            for _, ids, _, maps in batches(shard):
                rows.update(zip(ids.to_pylist(), maps.mean(axis=(1, 2), dtype=np.float64)))
        return rows

    one, another = pooled(store), pooled(other)
    if not one or one.keys() != another.keys():
        sys.exit(f"error: {store} and {other} do not hold the same images")
    print(json.dumps({"least_cosine": alike(np.stack(list(one.values())), np.stack([another[id] for id in one]))}))


def compare_engines(folder):
    """Prints the least cosine of each engine's pooled features with those of the raw engine, for the same input."""
    import numpy as np

    raw = np.load(folder / "pooled-raw.npy")
    others = {file.stem.removeprefix("pooled-"): np.load(file) for file in folder.glob("pooled-openvino*.npy")}
    print(json.dumps({name: alike(raw, pooled) for name, pooled in others.items()}))


# ---- the libraries: each gives its tasks and what versions it is made of --------------------------


def held_inputs(settings, channels_first=False):
    """The input in memory, in batches."""
    import numpy as np

    inputs = np.load(Path(settings["folder"]) / "inputs.npy")
    inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)) if channels_first else inputs
    return [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]


def pooled_start(run, batch, folder, name):
    """Keeps pooled features of the first images for comparing; `run` gives maps of the model's own layout."""
    import numpy as np

    maps = np.array(run(batch[:BATCH]))[:COMPARED]
    channels_last = maps.shape[-1] > maps.shape[1]
    np.save(Path(folder) / f"pooled-{name}.npy", maps.mean(axis=(1, 2) if channels_last else (2, 3), dtype=np.float64))


def raw_tasks(settings):
    from concurrent.futures import ThreadPoolExecutor

    import onnxruntime

    threads = settings["threads"]

    def session(threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(settings["model"], options, providers=["CPUExecutionProvider"])

    whole = session(threads)
    name, shape = whole.get_inputs()[0].name, whole.get_inputs()[0].shape
    batches = held_inputs(settings, channels_first=shape[1] == 3)
    pooled_start(lambda batch: whole.run(None, {name: batch})[0], batches[0], settings["folder"], "raw")

    def one_session():
        for batch in batches:
            whole.run(None, {name: batch})

    single = [session(1) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def share(n):
        for batch in batches[n::threads]:
            single[n].run(None, {name: batch})

    tasks = {"raw": one_session, "raw-split": lambda: list(pool.map(share, range(threads)))}
    return tasks, {"onnxruntime": onnxruntime.__version__}


def keras_tasks(settings):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    model = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))

    def load(path):
        image = tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), [SIDE, SIDE])
        return keras.applications.resnet50.preprocess_input(image)

    def task(folder):
        files = sorted(str(file) for file in Path(folder).glob("*/*"))
        images = tf.data.Dataset.from_tensor_slices(files).map(load, num_parallel_calls=settings["threads"])
        images = images.batch(BATCH).prefetch(2)
        # The tuner looks after 10, 20, 40 ms and so on, and the end of a pass often waits for its next look: after
        # 20.5 or 41.0 s, however much there was to do.
        options = tf.data.Options()
        options.autotune.enabled = False
        images = images.with_options(options)
        return lambda: model.predict(images, verbose=0)

    tasks = {f"keras {one['name']}": task(one["folder"]) for one in settings["sets"]}
    return tasks, {"keras": keras.__version__, "tensorflow": tf.__version__}


def torch_tasks(settings):
    try:
        import bench_features_torch
    except (OSError, RuntimeError) as error:  # so says a torchvision that does not fit its torch
        raise ImportError(error) from error
    bench_features_torch.check(settings)
    return bench_features_torch.tasks(settings, held_inputs(settings))


def openvino_tasks(settings):
    import numpy as np
    import openvino

    core = openvino.Core()
    batches = held_inputs(settings, channels_first=core.read_model(settings["model"]).inputs[0].partial_shape[1] == 3)

    def compiled(precision):
        network = core.read_model(settings["model"])
        network.reshape(list(batches[0].shape))
        options = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": "1"}
        options["INFERENCE_NUM_THREADS"] = str(settings["threads"])
        model = core.compile_model(network, "CPU", options)
        if model.get_property("INFERENCE_PRECISION_HINT").get_type_name() != precision:
            return None  # this processor has no bfloat16
        request = model.create_infer_request()

        def run(batch):
            filled = batch
            if len(batch) < len(batches[0]):  # a shape for the last batch alone would be compiled anew
                filled = np.concatenate([batch, np.zeros((len(batches[0]) - len(batch), *batch.shape[1:]), np.float32)])
            return request.infer({0: filled}, share_inputs=True, share_outputs=True)[0]

        pooled_start(run, batches[0], settings["folder"], f"openvino {precision}")
        return lambda: [len(run(batch)) for batch in batches]

    tasks = {f"openvino {precision}": compiled(precision) for precision in ["f32", "bf16"]}
    tasks = {name: task for name, task in tasks.items() if task}
    return tasks, {"openvino": openvino.__version__.split("-")[0]}


LIBRARIES = {"raw": raw_tasks, "keras": keras_tasks, "torch": torch_tasks, "openvino": openvino_tasks}
LACKING = """
hint: install what scripts/requirements-bench.txt lists there, torchvision in the version that belongs to its torch \
(with pip's --no-deps torch stays as it is), or leave out --bench-python
""".strip()


def serve(library, settings):
    """Answers each line of stdin, a task, with the seconds that it took."""
    try:
        tasks, versions = LIBRARIES[library](settings)
    except ImportError as error:
        sys.exit(f"error: {sys.executable} lacks what {library} needs: {error} ({LACKING})")
    for task in tasks.values():
        task()
    print(json.dumps({"ready": library, "tasks": list(tasks), "versions": versions}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        tasks[line.strip()]()
        print(json.dumps({"secs": time.perf_counter() - start}), flush=True)


def main():
    command, *rest = sys.argv[1:]
    if command == "prepare":
        prepare(Path(rest[0]), Path(rest[1]), int(rest[2]), rest[3])
    elif command == "stores":
        compare_stores(*rest)
    elif command == "engines":
        compare_engines(Path(rest[0]))
    else:
        serve(rest[0], json.loads(rest[1]))


if __name__ == "__main__":
    main()
