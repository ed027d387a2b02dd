#!/usr/bin/env python3
"""Compares the rows of two feature stores, in whatever order and shards they lie.

    pip install -r scripts/requirements-peers.txt
    python3 scripts/compare_stores.py STORE_DIR OTHER_DIR

Prints a JSON object: the rows of each, how many (id, view) are there twice, in one store alone, or with other bytes.
Exit code 0: the same rows, each once; 1: not so.
"""

import hashlib
import json
import sys
from pathlib import Path

from read_store import batches


def rows(store):
    """Digests of the feature maps by id and view, and how many rows repeat one."""
    found, twice = {}, 0
    for shard in sorted(Path(store).glob("*.arrow")):
        for _, ids, views, features in batches(shard):
            for position, row in enumerate(zip(ids.to_pylist(), views.to_pylist())):
                twice += row in found
                found[row] = (features[position].shape, hashlib.sha256(features[position].tobytes()).digest())
    return found, twice


def main():
    (one, one_twice), (other, other_twice) = rows(sys.argv[1]), rows(sys.argv[2])
    figures = {
        "rows": [len(one), len(other)],
        "twice": [one_twice, other_twice],
        "in_one_alone": len(one.keys() ^ other.keys()),
        "other_bytes": sum(one[row] != other[row] for row in one.keys() & other.keys()),
    }
    print(json.dumps(figures))
    same = not any([*figures["twice"], figures["in_one_alone"], figures["other_bytes"]])
    return 0 if one and same else 1


if __name__ == "__main__":
    sys.exit(main())
