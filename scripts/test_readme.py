#!/usr/bin/env python3
"""Runs every command of the README and of each verb's --help, in a folder like a user's.

A folder stands in for a clone: this one's Makefile, scripts and binaries, a data folder of its own, a folder
`PetImages` of drawn images, a small untrained backbone where the ImageNet one would be. The blocks of shell and Python run
in the README's order, so that a command finds what those before it left. Capitals that stand for something (RUN, STORE,
INDEX, FILE) are filled in; nothing else is changed but by RULES, which say why. What needs the network is marked
`(network)` in the README and asks a local server, which has nothing: the test sees that it is asked for the right file
and that the command says what to do.

What needs a program that is not there (docker, kubectl) is named and left out; scripts/test_kubernetes.py and
scripts/test_slurm.py run those.

Needs target/release/extractor and head-trainer (make build), ONNX Runtime (make runtime) and network access to PyPI
the first time.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import moto_server
from test_quantize import VENV as QUANTIZE_VENV
from test_read_store import PYTHON as PEERS_PYTHON
from test_read_store import ROOT, SCRIPTS, make_environment

BIN = ROOT / "target" / "release"
PROGRAMS = ("extractor", "head-trainer", "make", "find", "tensorboard", "scripts/", "DATA=", "PIP_", "HEADSTART_", "curl")
ELSEWHERE = {  # by first word: where those are run
    "docker": "linted by scripts/test_kubernetes.py",
    "kubectl": "checked by scripts/test_kubernetes.py",
    "cd": "goes with kubectl",
    "python3": "scripts/test_web.py serves such a page",
}
PER_CLASS = 60
SIDE = 32  # of the stand-in for the ImageNet ResNet50


# Random weights in torchvision's names, as a user has trained ones.
WEIGHTS = """
import numpy as np
from safetensors.numpy import save_file
draw, tensors = np.random.default_rng(1), {}
def convolution(name, norm, outputs, inputs, side):
    scale = np.sqrt(2 / (inputs * side * side))
    tensors[f"{name}.weight"] = (draw.standard_normal((outputs, inputs, side, side), np.float32) * scale).astype(np.float16)
    for what, value in [("weight", 0.5), ("bias", 0), ("running_mean", 0), ("running_var", 1)]:
        tensors[f"{norm}.{what}"] = np.full(outputs, value, np.float16)
convolution("conv1", "bn1", 64, 3, 7)
inputs = 64
for stage, (blocks, width) in enumerate(zip([3, 4, 6, 3], [64, 128, 256, 512]), 1):
    for block in range(blocks):
        at = f"layer{stage}.{block}"
        convolution(f"{at}.conv1", f"{at}.bn1", width, inputs, 1)
        convolution(f"{at}.conv2", f"{at}.bn2", width, width, 3)
        convolution(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1)
        if block == 0:
            convolution(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, inputs, 1)
        inputs = 4 * width
for name in ["resnet50", "weights"]:
    save_file(tensors, f"{name}.safetensors")
"""


class Nothing(BaseHTTPRequestHandler):
    """A server that has no file, and knows what it was asked for."""

    asked = []

    def do_GET(self):  # noqa: N802, the base class names it
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_):
        pass


class Commands:
    """The commands of a text, in its order."""

    BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)

    def __init__(self, text):
        self.all = []  # (language, command)
        for language, block in self.BLOCK.findall(text):
            if language == "python":
                self.all.append((language, block))
                continue
            lines = block.replace("\\\n", " ").splitlines()
            self.all += [("sh", line.strip()) for line in lines if line.strip() and not line.startswith("#")]

    @staticmethod
    def of_help(program):
        """The examples at the end of each verb's help."""
        found, left = [], [[program]]
        while left:
            verb = left.pop(0)
            text = subprocess.run([BIN / verb[0], *verb[1:], "--help"], capture_output=True, text=True, check=True).stdout
            commands = re.search(r"^Commands:\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
            if commands:
                names = re.findall(r"^  ([a-z-]+) ", commands[1], re.MULTILINE)
                left += [verb + [name] for name in names if name != "help"]
            examples = re.search(r"^Examples?:\n((?:  .*\n?)+)", text, re.MULTILINE)
            assert commands or examples, f"{verb} has neither verbs nor examples"
            if examples:
                found += [line.strip() for line in examples[1].splitlines()]
        return found


class Desk:
    """A folder as a user has it after cloning and building."""

    def __init__(self, folder, server, s3):
        self.folder, self.server, self.s3 = folder, server, s3
        for name in ["Makefile", "scripts", "target", "extractor", "head-trainer", "Cargo.toml"]:
            (folder / name).symlink_to(ROOT / name)
        data = folder / "data"
        (data / "backbones").mkdir(parents=True)
        (data / "runtime").symlink_to((ROOT / "data" / "runtime").resolve())
        self.run("extractor sample drawn-before --per-class %d --quiet" % PER_CLASS)
        pets = folder / "PetImages"
        pets.mkdir()
        for source, name in zip(sorted(path for path in (folder / "drawn-before").iterdir() if path.is_dir()), ["Cat", "Dog"]):
            source.rename(pets / name)
        first = sorted((pets / "Cat").iterdir())[0]
        first.rename(pets / "Cat" / "7194.jpg")
        shutil.copy(pets / "Cat" / "7194.jpg", folder / "cat.jpg")
        for name in ["dog.jpg", "photo.jpg"]:
            shutil.copy(sorted((pets / "Dog").iterdir())[0], folder / name)
        (folder / "holiday").mkdir()
        shutil.copy(folder / "photo.jpg", folder / "holiday" / "dog.png")  # known by its content
        self.run(f"extractor backbone seed --seed 1 --size {SIDE} --out resnet50.onnx --quiet")
        for end in ["onnx", "toml"]:
            shutil.copy(folder / f"resnet50.{end}", data / "backbones" / f"resnet50.{end}")
        (folder / "flags.txt").write_text("--l2 0.1\n")
        self.other_inputs()
        subprocess.run([PEERS_PYTHON, "-c", WEIGHTS], cwd=folder, check=True)
        test_data = os.environ.get("HEADSTART_TEST_DATA")
        if test_data:
            shutil.copy(Path(test_data) / "models" / "squeezenet1.1_classifier.onnx", folder / "squeezenet.onnx")

    def other_inputs(self):
        """The same images as a zip, a tar, a WebDataset and a manifest."""
        files = sorted(path.relative_to(self.folder) for path in (self.folder / "PetImages").glob("*/*"))
        for name in ["kagglecatsanddogs_5340.zip", "pets.zip"]:
            with zipfile.ZipFile(self.folder / name, "w") as archive:
                for path in files:
                    archive.write(self.folder / path, path)
        with tarfile.open(self.folder / "pets.tar", "w") as archive:
            for path in files:
                archive.add(self.folder / path, path)
        with tarfile.open(self.folder / "shard-000000.tar", "w") as archive:
            label = self.folder / "label.cls"
            for i, path in enumerate(files):
                archive.add(self.folder / path, f"{i:06}.jpg")
                label.write_text(str(int(path.parts[1] == "Dog")))
                archive.add(label, f"{i:06}.cls")
        with open(self.folder / "metadata.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label"])
            writer.writerows([path, path.parts[1]] for path in files)
        script = """
import csv, sys, pyarrow as pa, pyarrow.parquet as pq
rows = list(csv.DictReader(open("metadata.csv")))
pq.write_table(pa.table({"path": [r["path"] for r in rows], "label": [r["label"] for r in rows]}), "files.parquet")
images = [{"bytes": open(r["path"], "rb").read(), "path": r["path"]} for r in rows]
kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
pq.write_table(pa.table({"image": pa.array(images, kind), "label": [r["label"] for r in rows]}), "data/train-00000.parquet")
"""
        subprocess.run([PEERS_PYTHON, "-c", script], cwd=self.folder, check=True)

    def environment(self):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PIP_", "HEADSTART_"))}
        env.update(self.s3.environment)
        env.update(
            PATH=f"{BIN}:{PEERS_PYTHON.parent}:{env['PATH']}", CARGO="true", NO_PROXY="127.0.0.1",
            PIP_INDEX_URL=f"{self.server}/simple", HEADSTART_MIRROR=self.server, HEADSTART_REMOTE_RETRY_SECS="20")
        return env

    def start(self, command):
        pipe = subprocess.PIPE
        return subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command], cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=pipe, stderr=pipe, text=True)

    def run(self, command, codes=(0,)):
        process = self.start(command)
        out, err = process.communicate()
        if process.returncode not in codes:
            raise AssertionError(f"{command}\nexited {process.returncode}, not {codes}:\n{out[-2000:]}{err[-2000:]}")
        return out, err

    # What the capitals stand for, when a command needs it.

    def runs(self):
        """The newest head, and the one before it."""
        heads = [path.parent for path in (self.folder / "data" / "runs").glob("*/head.safetensors")]
        return [str(path.relative_to(self.folder)) for path in sorted(heads, key=lambda path: path.stat().st_mtime)[:-3:-1]]

    def newest(self, pattern):
        found = sorted((self.folder / "data").glob(pattern), key=lambda path: path.stat().st_mtime)
        return str(found[-1].relative_to(self.folder))

    def filled(self, command):
        def fill(match):
            word = match[0]
            if word in ("RUN...", "A B"):
                return " ".join(self.runs())
            if word == "RUN":
                return self.runs()[0]
            if word in ("STORE", "STORE_DIR"):
                return str(Path(self.newest("features/*/store.json")).parent)
            if word in ("INDEX", "INDEX..."):
                return self.newest("indexes/PetImages-*.arrow")
            return {"DATA": "PetImages", "FILE": "resnet50.onnx"}[word]

        # `DATA=` and `"$DATA"` are variables, not places to fill.
        words = r"(?<![\w$/-])(RUN\.\.\.|RUN|A B|STORE_DIR|STORE|INDEX\.\.\.|INDEX|DATA|FILE)(?![\w=])"
        return re.sub(words, fill, command)


# (pattern, what it becomes, why)
RULES = [
    (r"^make backbone( .*)?$", r"env -u PIP_INDEX_URL make backbone BACKBONE_ARGS='--weights none --seed 1 --size 32 --out backbone/resnet50.onnx --quiet'",
     "the weights are downloaded"),
    (r"^(extractor backbone quantize .*?)(#.*)?$", rf"env -u PIP_INDEX_URL HEADSTART_QUANTIZE_VENV={QUANTIZE_VENV} \1 --max-drop 100",
     "drawn images tell nothing of what 8 bits cost, and the quantiser comes from PyPI"),
    (r"^make data backbone (.*report)\b.*$", r"make \1",
     "make data and make backbone are run alone; a folder of images stands in for the archive"),
    (r"^head-trainer export RUN --keras model.py.*$",
     "extractor features PetImages --backbone backbone/resnet50.onnx --store keras-features && "
     "head-trainer train PetImages --store keras-features --backbone backbone/resnet50.onnx --runs keras && "
     "head-trainer export keras/* --backbone backbone/resnet50.onnx --keras model.py",
     "it takes a head on what make backbone exports"),
    (r"^tensorboard (.*?)(#.*)?$", r"tensorboard --inspect \1", "a server does not end"),
    (r"^(make features-slurm .*?)(#.*)?$", r"\1 SUBMIT_ARGS=--dry-run", "scripts/test_slurm.py submits to a real Slurm"),
    (r"^(.*scripts/slurm/submit sweep)\b(.*)$", r"\1 --dry-run", "scripts/test_slurm.py submits to a real Slurm"),
    (r"PIP_INDEX_URL=http://pypi.example/simple make runtime", "PIP_INDEX_URL={server}/simple make runtime DATA_DIR=x",
     "the address is an example"),
    (r"HEADSTART_MIRROR=http://mirror.example", "HEADSTART_MIRROR={server}", "the address is an example"),
    (r"\b396492af\b", "{id}", "the beginning of an id that is there"),
]

# What a command that is marked `(network)` must ask the local server for.
ASKS = [
    ("make data", "/kagglecatsanddogs_5340.zip"),
    ("extractor fetch cats-vs-dogs", "/kagglecatsanddogs_5340.zip"),
    ("resnet50-v1-12", "resnet50-v1-12.onnx"),
    ("mobilenetv2-12", "mobilenetv2-12.onnx"),
    ("--web page", "onnxruntime-web"),
    ("EP=cuda", "/simple/onnxruntime-gpu/"),
    ("EP=openvino", "/simple/onnxruntime-openvino/"),
    ("make runtime", "/simple/onnxruntime/"),
]


class Readme(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        make_environment()
        cls.server = ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.server.shutdown)
        cls.s3 = moto_server.Server()
        cls.addClassCleanup(cls.s3.stop)
        cls.address = f"http://127.0.0.1:{cls.server.server_address[1]}"

    def desk(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        desk = Desk(Path(holder.name), self.address, self.s3)
        self.s3.fill("pets", "PetImages", desk.folder / "PetImages")
        return desk

    def ruled(self, desk, command):
        for pattern, to, _ in RULES:
            if "{id}" in to and re.search(pattern, command):
                out, _ = desk.run("head-trainer runs show RUN --json > /dev/null; sha256sum PetImages/Dog/*".replace("RUN", desk.runs()[0]))
                to = to.format(id=out.split()[-2][:8])
            changed = re.sub(pattern, to.replace("{server}", self.address), command)
            if changed != command and not (to.startswith("\\1 SUBMIT_ARGS") and "SUBMIT_ARGS" in command):
                command = changed
        return command

    def execute(self, desk, command):
        marked = "(network)" in command or re.match(r"^make runtime EP=", command)
        first = command.split()[0]
        if first in ELSEWHERE:
            print(f"skipped: {command}: {ELSEWHERE[first]}", file=sys.stderr)
            return
        self.assertTrue(command.startswith(PROGRAMS), f"no rule for `{command}`")
        if "squeezenet.onnx" in command and not (desk.folder / "squeezenet.onnx").exists():
            print(f"skipped: {command}: HEADSTART_TEST_DATA is not set", file=sys.stderr)
            return
        typed, command = command, desk.filled(self.ruled(desk, command))
        asks = [path for what, path in ASKS if what in command and not command.startswith("make features")]
        if asks:
            del Nothing.asked[:]
            hidden = desk.folder / "data" / "runtime"
            if "runtime" in command:  # else it is there
                hidden.rename(desk.folder / "runtime-there")
            try:
                _, err = desk.run(command, codes=(1, 2, 75))
            finally:
                if "runtime" in command:
                    shutil.rmtree(hidden, ignore_errors=True)
                    (desk.folder / "runtime-there").rename(hidden)
            self.assertTrue(any(asks[0] in path for path in Nothing.asked), (command, Nothing.asked))
            self.assertIn("hint: ", err, command)
            return
        # The export of a backbone is run for real, see RULES.
        exported = re.match("make (data )?backbone", typed)
        self.assertFalse(marked and not exported, f"`{command}` is marked (network) and asks for nothing")
        desk.run(command)

    def all_of(self, desk, commands):
        """Runs commands one after the other; a server runs on a free port until the next command that does not ask it."""
        server = None
        for language, command in commands:
            with self.subTest(command):
                if server and not command.startswith("curl"):
                    server.send_signal(signal.SIGTERM)
                    self.assertEqual(server.wait(), 0)
                    server = None
                if language == "python":
                    self.python(desk, command)
                elif command.startswith("head-trainer serve"):
                    server = desk.start("exec " + desk.filled(command.split("#")[0]) + " --listen 127.0.0.1:0 --json")
                    self.addCleanup(server.kill)
                    address = json.loads(server.stdout.readline())["url"]
                elif command.startswith("curl"):
                    out, _ = desk.run(command.replace("http://127.0.0.1:8080", address).replace("curl", "curl -sS --fail"))
                    self.assertIn("probability", out)
                else:
                    self.execute(desk, command)
        self.assertIsNone(server, "nothing comes after the server")

    def test_readme(self):
        self.all_of(self.desk(), Commands((ROOT / "README.md").read_text()).all)

    def python(self, desk, code):
        """Runs a snippet with what it takes for granted."""
        given = "import numpy as np\nmaps = np.ones((2, 4, 4, 2048), np.float32)\n"
        code = code.replace("data/runs/.../", desk.runs()[0] + "/")
        subprocess.run([PEERS_PYTHON, "-c", given + code], cwd=desk.folder, check=True)

    def test_examples_of_the_help(self):
        commands = [command for program in ["extractor", "head-trainer"] for command in Commands.of_help(program)]
        self.all_of(self.desk(), [("sh", command) for command in [*commands, "extractor runtime info"]])

    def test_verbs_and_flags_in_the_text_exist(self):
        text = re.sub(Commands.BLOCK, "", (ROOT / "README.md").read_text())
        inline = [code for code in re.findall(r"`([^`\n]+)`", text) if code.startswith(("extractor ", "head-trainer "))]
        self.assertGreater(len(inline), 20)
        for code in inline:
            with self.subTest(code):
                words = code.split()
                verb = [words[0]]
                for word in words[1:3]:
                    if re.fullmatch("[a-z-]+", word):
                        verb.append(word)
                help_of = [subprocess.run([BIN / verb[0], *verb[1:n], "--help"], capture_output=True, text=True)
                           for n in range(len(verb), 1, -1)]
                good = next((result.stdout for result in help_of if result.returncode == 0), None)
                self.assertIsNotNone(good, f"there is no verb `{' '.join(verb)}`")
                for flag in re.findall(r"--[a-z0-9-]+", code):
                    self.assertIn(flag, good)
        verbs = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in set(re.findall(r"`make ([a-z-]+)", text)):
            self.assertIn(f"\n  {name} ", verbs)

    def test_other_inputs(self):
        desk = self.desk()
        rows = re.findall(r"^\| .* \| `(extractor index [^`]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
        self.assertEqual(len(rows), 6)
        digests = set()
        for command in rows:
            out, _ = desk.run(f"{command} --json")
            digests.add(json.loads(out)["images"])
        self.assertEqual(digests, {2 * PER_CLASS})


if __name__ == "__main__":
    unittest.main()
