#!/usr/bin/env python3
"""Writes one data set with other people's writers (zipfile, tarfile, csv, pyarrow, polars) and reads each form with the
built binary: the same images, classes and ids as the folder.

Needs target/release/extractor (make build). `HEADSTART_EXTRACTOR` names another binary. The environment is that of
test_read_store.py.
"""

import csv
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path

from test_read_store import PYTHON, ROOT, make_environment, run

EXTRACTOR = Path(os.environ.get("HEADSTART_EXTRACTOR", ROOT / "target" / "release" / "extractor"))

# Runs in the environment: Parquet as Hugging Face's `datasets` writes it with pyarrow, and with polars.
WRITE_PARQUET = """
import json, sys
from pathlib import Path
import polars, pyarrow as pa, pyarrow.parquet as pq
root, out = map(Path, sys.argv[1:])
files = sorted(root.glob("*/*.jpg"), reverse=True)
names = [str(path.relative_to(root)) for path in files]
classes = sorted({path.parent.name for path in files})
labels = [classes.index(path.parent.name) for path in files]
image = [{"bytes": path.read_bytes(), "path": name} for path, name in zip(files, names)]
kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
features = {"image": {"_type": "Image"}, "labels": {"names": classes, "_type": "ClassLabel"}}
table = pa.table({"image": pa.array(image, kind), "labels": pa.array(labels, pa.int64())})
table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
pq.write_table(table, out / "datasets.parquet", row_group_size=7)
pq.write_table(table, out / "v2.parquet", data_page_version="2.0", compression="gzip", data_page_size=1000)
(out / "shards").mkdir()
half = len(files) // 2
pq.write_table(table.slice(0, half), out / "shards" / "train-00000-of-00002.parquet")
pq.write_table(table.slice(half), out / "shards" / "train-00001-of-00002.parquet")
flat = {"image": [i["bytes"] for i in image], "file_name": names, "label": [classes[i] for i in labels]}
polars.DataFrame(flat).write_parquet(out / "polars.parquet")
polars.DataFrame({"file_name": names, "label": polars.Series(flat["label"], dtype=polars.Categorical)}).write_parquet(
    root / "paths.parquet")
"""


def index(path, folder):
    return run(EXTRACTOR, "index", path, "--json", "--data-dir", folder / "data")


class OtherInputs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        make_environment()
        cls.holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.holder.cleanup)
        cls.folder = Path(cls.holder.name)
        cls.images = cls.folder / "PetImages"
        subprocess.run([EXTRACTOR, "sample", cls.images, "--per-class", "10", "--quiet"], check=True,
                       stdout=subprocess.DEVNULL)
        cls.expected = index(cls.images, cls.folder)

    def same(self, path):
        found = index(path, self.folder)
        for key in ["digest", "images", "classes", "skipped"]:
            self.assertEqual(found[key], self.expected[key], (path, key))

    def files(self):
        return sorted(path for path in self.images.glob("*/*.jpg"))

    def test_zipfile(self):
        path = self.folder / "pets.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in self.files():
                archive.write(file, Path("PetImages") / file.relative_to(self.images))
            archive.writestr("readme[1].txt", "text")
        self.same(path)

    def test_tarfile(self):
        for name, form in [("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT), ("ustar", tarfile.USTAR_FORMAT)]:
            path = self.folder / f"{name}.tar"
            with tarfile.open(path, "w", format=form) as archive:
                archive.add(self.images, arcname="PetImages", filter=lambda m: None if "headstart" in m.name else m)
            self.same(path)

    def test_csv(self):
        path = self.images / "metadata.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", "label"])
            rows.writerows([file.relative_to(self.images), file.parent.name] for file in self.files())
        self.same(path)
        path.unlink()

    def test_pyarrow_and_polars(self):
        subprocess.run([PYTHON, "-c", WRITE_PARQUET, self.images, self.folder], check=True)
        for name in ["datasets.parquet", "v2.parquet", "shards", "polars.parquet", "PetImages/paths.parquet"]:
            self.same(self.folder / name)
        (self.images / "paths.parquet").unlink()


if __name__ == "__main__":
    unittest.main()
