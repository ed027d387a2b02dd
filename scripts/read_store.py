#!/usr/bin/env python3
"""Reads a feature store's shards with pyarrow alone: memory-mapped, and without copying a feature map.

    pip install -r scripts/requirements-peers.txt
    python3 scripts/read_store.py STORE_DIR [--json]

Why it exists: a store is a folder of Arrow files, so other programs need nothing of this project to use it. `batches`
below is all it takes; the rest proves that the arrays are the mapped file itself, and prints what they hold.
Exit code 0: every shard read without a copy; 1: not so, or no shard; 2: bad arguments.
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import numpy as np
    import pyarrow as pa
except ImportError as missing:
    sys.exit(f"error: {missing} (hint: pip install -r scripts/requirements-peers.txt)")


def batches(shard):
    """The shard's mapping and, batch by batch, ids, views and feature maps [N, H, W, C]."""
    mapping = pa.memory_map(str(shard))
    reader = pa.ipc.open_file(mapping)
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        yield mapping, batch["id"], batch["view"], batch["features"].to_numpy_ndarray()


def lies_in(array, mapping):
    """Whether every byte of the array is the mapped file's."""
    mapping.seek(0)
    whole = mapping.read_buffer()  # all of the file, not read: a view of the mapping
    return whole.address <= array.ctypes.data and array.ctypes.data + array.nbytes <= whole.address + whole.size


def check(shard):
    """One shard's figures; a ValueError where the maps are not the mapped file's own bytes."""
    rows, shapes, dtypes, views, first = 0, set(), set(), set(), None
    for mapping, ids, view, features in batches(shard):
        if len(ids) and not lies_in(features, mapping):
            raise ValueError("the features were copied (hint: are the shard's buffers compressed?)")
        if len(ids) and features.flags.writeable:
            raise ValueError("the features can be written to, so they are not the mapped file")
        if first is None and len(ids):
            row = features[0].astype(np.float64)
            first = {"id": ids[0].as_py().hex(), "view": view[0].as_py(), "mean": float(row.mean())}
        rows += len(ids)
        shapes.add(features.shape[1:])
        dtypes.add(str(features.dtype))
        views.update(view.unique().to_pylist())
    return rows, shapes, dtypes, views, first


def summarize(store):
    shards = sorted(store.glob("*.arrow"))
    if not shards:
        raise ValueError(f"{store} holds no .arrow file (hint: name the folder that holds the shards)")
    allocated_bytes = pa.total_allocated_bytes()
    rows, shapes, dtypes, views, first = 0, set(), set(), set(), None
    for shard in shards:
        try:
            figures = check(shard)
        except AttributeError as error:
            raise ValueError(f"{shard}: `features` is no fixed_shape_tensor column ({error})") from error
        except KeyError as error:
            raise ValueError(f"{shard}: no such column: {error}") from error
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{shard}: {error}") from error
        rows += figures[0]
        shapes |= figures[1]
        dtypes |= figures[2]
        views |= figures[3]
        first = first or figures[4]
    if len(shapes) > 1 or len(dtypes) > 1:
        raise ValueError(f"{store} mixes shapes {sorted(shapes)} or element types {sorted(dtypes)}")
    return {
        "shards": len(shards),
        "rows": rows,
        "shape": list(shapes.pop()) if shapes else None,  # [H, W, C]
        "dtype": dtypes.pop() if dtypes else None,
        "views": sorted(views),
        "zero_copy": True if rows else None,  # every row's maps lie in the mapped file
        "allocated_bytes": pa.total_allocated_bytes() - allocated_bytes,
        "first_row": first,
    }


def main():
    parser = argparse.ArgumentParser(description="Read a feature store with pyarrow, memory-mapped, without a copy.")
    parser.add_argument("store", type=Path, metavar="STORE_DIR", help="the folder that holds the .arrow shards")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not options.store.is_dir():
        parser.error(f"{options.store} is not a folder")
    try:
        summary = summarize(options.store)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(summary))
    else:
        for key, value in summary.items():
            print(f"{key:<16} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
