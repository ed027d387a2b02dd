#!/usr/bin/env python3
"""Makes a real feature store with the built binary and reads it with pyarrow, polars and DuckDB.

Needs target/release/extractor (make build) and ONNX Runtime (make runtime). The first run makes .venv/peers.
`HEADSTART_PEERS_VENV` names an environment folder other than that. Standard library only; the readers run in the
environment.
"""

import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
VENV = Path(os.environ.get("HEADSTART_PEERS_VENV", ROOT / ".venv" / "peers"))
REQUIREMENTS = SCRIPTS / "requirements-peers.txt"
PYTHON = VENV / "bin" / "python"


def make_environment(venv=VENV, requirements=REQUIREMENTS):
    """Makes an environment, once for each content of the requirements."""
    stamp, digest = venv / "complete", hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return
    print(f"installing {requirements} into {venv}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    subprocess.run([venv / "bin" / "python", "-m", "pip", "install", "-q", "-r", requirements], check=True)
    stamp.write_text(digest)


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        raise AssertionError(f"{command} exited {result.returncode}: {result.stderr}")
    return json.loads(result.stdout)


class ReadStore(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        make_environment()
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        folder = Path(cls.folder.name)
        extractor = ROOT / "target" / "release" / "extractor"
        run(extractor, "sample", folder / "images", "--per-class", "10", "--json")
        model = folder / "model.onnx"
        run(extractor, "backbone", "seed", "--size", "64", "--out", model, "--json")
        cls.stores = {}
        for dtype in ["f32", "f16"]:
            result = run(
                extractor, "features", folder / "images", "--backbone", model, "--store", folder / "features",
                "--index", folder / "index.arrow", "--dtype", dtype, "--batch-size", "8", "--json",
            )
            cls.stores[dtype] = result

    def test_pyarrow_reads_without_a_copy(self):
        for dtype, numpy_dtype in [("f32", "float32"), ("f16", "float16")]:
            result = self.stores[dtype]
            figures = run(PYTHON, SCRIPTS / "read_store.py", result["store"], "--json")
            self.assertEqual(figures["rows"], 20)
            self.assertEqual(figures["shape"], result["map_shape"])
            self.assertEqual(figures["dtype"], numpy_dtype)
            self.assertEqual(figures["views"], ["identity"])
            self.assertIs(figures["zero_copy"], True)
            self.assertEqual(figures["allocated_bytes"], 0)

    def test_the_ids_are_the_files_digests(self):
        images = Path(self.folder.name) / "images"
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in images.glob("*/*.jpg")}
        figures = run(PYTHON, SCRIPTS / "read_store.py", self.stores["f32"]["store"], "--json")
        self.assertIn(figures["first_row"]["id"], digests)

    def test_polars_and_duckdb_read_the_same_numbers(self):
        for dtype, numpy_dtype in [("f32", "float32"), ("f16", "float16")]:
            figures = run(PYTHON, SCRIPTS / "read_peers.py", self.stores[dtype]["store"])
            self.assertEqual(figures["polars"]["dtype"], numpy_dtype)
            self.assertEqual(figures["polars"]["rows"], 20)
            self.assertEqual(figures["duckdb"]["rows"], 20)
            self.assertAlmostEqual(figures["polars"]["mean"], figures["duckdb"]["mean"], places=4)
            self.assertGreater(figures["polars"]["mean"], 0.05)

    def test_the_golden_shard_of_format_1(self):
        golden = ROOT / "extractor" / "tests" / "data"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "shard-v1.arrow").write_bytes((golden / "shard-v1.arrow").read_bytes())
            figures = run(PYTHON, SCRIPTS / "read_store.py", folder, "--json")
        self.assertEqual((figures["rows"], figures["shape"]), (3, [2, 3, 4]))
        first = hashlib.sha256(struct.pack("<Q", 0)).hexdigest()
        self.assertEqual(figures["first_row"], {"id": first, "view": "identity", "mean": 11.5})


if __name__ == "__main__":
    unittest.main()
