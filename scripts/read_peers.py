#!/usr/bin/env python3
"""Reads a feature store with polars and with DuckDB: each in a few lines, without anything of this project.

    pip install -r scripts/requirements-peers.txt
    python3 scripts/read_peers.py STORE_DIR

Prints one JSON object: for each reader the number of rows and the mean of all features. scripts/read_store.py shows
pyarrow, zero-copy and with the maps' shape. Exit code 0: read; 1: not; 2: bad arguments.
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import duckdb
    import numpy as np
    import polars as pl
    import pyarrow as pa
except ImportError as missing:
    sys.exit(f"error: {missing} (hint: pip install -r scripts/requirements-peers.txt)")


def with_polars(shard):
    """Rows of [h*w*c] numbers, float32 or float16; polars keeps the maps flat."""
    frame = pl.read_ipc(shard)
    return frame["features"].to_numpy()  # [N, h*w*c]


def with_duckdb(shard):
    """Number of rows and mean, by SQL over a pyarrow table: DuckDB knows neither the tensor type nor float16."""
    table = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
    features = pa.chunked_array([chunk.storage for chunk in table["features"].chunks])
    if pa.types.is_float16(features.type.value_type):
        features = features.cast(pa.list_(pa.float32(), features.type.list_size))
    rows = pa.table({"id": table["id"], "view": table["view"], "features": features})
    return duckdb.sql("select count(*), avg(list_avg(features::float[])) from rows").fetchall()[0]


def main():
    parser = argparse.ArgumentParser(description="Read a feature store with polars and DuckDB.")
    parser.add_argument("store", type=Path, metavar="STORE_DIR", help="the folder that holds the .arrow shards")
    shards = sorted(parser.parse_args().store.glob("shard-*.arrow"))
    if not shards:
        print("error: no shard there (hint: name the folder that holds shard-*.arrow)", file=sys.stderr)
        return 1
    polars = [with_polars(shard) for shard in shards]
    duck = [with_duckdb(shard) for shard in shards]
    rows = sum(n for n, _ in duck)
    print(json.dumps({
        "polars": {
            "rows": sum(len(maps) for maps in polars),
            "mean": float(np.mean(np.concatenate(polars), dtype=np.float64)),
            "dtype": str(polars[0].dtype),
        },
        "duckdb": {"rows": rows, "mean": sum(n * mean for n, mean in duck) / rows},
    }))
    return 0


if __name__ == "__main__":
    sys.exit(main())
