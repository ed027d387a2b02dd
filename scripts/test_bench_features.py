#!/usr/bin/env python3
"""Checks the arithmetic, the tables and the arguments of scripts/bench_features.py on made-up seconds.

Needs no binary, no engine and no environment. Standard library only.
"""

import contextlib
import copy
import io
import json
import sys
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))
import bench_features  # noqa: E402
import bench_features_table as table  # noqa: E402

SETS = ["180x180", "500x375"]
IMAGES = 600


def row(key, scope, set_name, secs, **more):
    return {"key": key, "name": f"the {key}", "scope": scope, "set": set_name, "secs": secs, **more}


def measured():
    """Rows whose medians are 6 s of ours, 5.7 s of the raw engine, 9 s of Keras."""
    return [
        row("ours", table.END_TO_END, SETS[0], [6.0, 5.0, 20.0], total_secs=[8.0, 6.0, 30.0],
            cached_secs=[0.04, 0.03, 0.05], peak_bytes=500_000_000, engine="engine 1", provider="CPU"),
        row("raw", table.ENGINE_ONLY, None, [5.7, 4.0, 19.0]),
        row("ours", table.END_TO_END, SETS[1], [7.0, 7.0, 7.0]),
        row("keras", table.END_TO_END, SETS[0], [9.0, 8.0, 30.0]),
        row("keras", table.END_TO_END, SETS[1], [10.0, 8.0, 12.0]),
        row("ours-openvino-bf16", table.END_TO_END, SETS[0], [3.0, 2.5, 3.5],
            least_cosine=0.99999, compared_with="ours"),
    ]


def result():
    rows = table.finished(measured(), IMAGES)
    return {
        "date": "2000-01-01T00:00:00+00:00",
        "machine": {"processor": "P", "cores": 4, "vector_instructions": [], "memory_bytes": 8e9, "load_at_start": 0.1},
        "versions": {"extractor": "1"},
        "settings": {"rounds": 3, "images": IMAGES, "batch": 64, "threads": 2, "backbone": "b"},
        "rows": rows,
        "goals": table.goals(rows, SETS),
    }


class Arithmetic(unittest.TestCase):
    def test_medians_and_spread(self):
        ours = table.finished(measured(), IMAGES)[0]
        self.assertEqual((ours["images_per_sec"], ours["low"], ours["high"]), (100.0, 30.0, 120.0))
        self.assertEqual(ours["median_total_secs"], 8.0)

    def test_ratios_are_to_the_same_files(self):
        ours, raw, large, _, _, _ = table.finished(measured(), IMAGES)
        self.assertAlmostEqual(ours["of_raw"], 0.95)
        self.assertAlmostEqual(ours["of_keras"], 1.5)
        self.assertAlmostEqual(large["of_keras"], 10 / 7)
        self.assertAlmostEqual(raw["of_keras"], 9 / 5.7)

    def test_goals(self):
        goals = {goal["name"]: goal for goal in result()["goals"]}
        self.assertEqual(len(goals), 8)
        raw = goals["ours / raw engine, 500x375 JPEGs"]
        self.assertAlmostEqual(raw["measured"], 5.7 / 7)
        self.assertIs(raw["reached"], False)
        keras = goals["ours / Keras end to end, 180x180 JPEGs"]
        self.assertIs(keras["reached"], True)
        self.assertEqual((keras["low"], keras["high"]), (1.5, 1.6))
        cached = goals["whole command, fully cached: times as fast as the first"]
        self.assertAlmostEqual(cached["measured"], 200.0)
        self.assertIs(goals["ours, OpenVINO bf16 / Keras end to end"]["reached"], True)
        self.assertIs(goals["ours, OpenVINO bf16: least cosine with fp32"]["reached"], True)
        self.assertIsNone(goals["ours, int8 / ours"]["reached"])

    def test_the_raw_engine_is_the_faster_arrangement(self):
        split = row("raw-split", table.ENGINE_ONLY, None, [5.0, 4.0, 19.0])
        rows = table.finished([*measured(), split], IMAGES)
        self.assertAlmostEqual(rows[0]["of_raw"], 5 / 6)
        goals = {goal["name"]: goal for goal in table.goals(rows, SETS)}
        self.assertAlmostEqual(goals["ours / raw engine, 180x180 JPEGs"]["measured"], 5 / 6)

    def test_a_goal_at_its_bound_is_reached(self):
        for cached_secs, reached in [(0.08, True), (0.081, False)]:
            rows = measured()
            rows[0]["cached_secs"] = [cached_secs] * 3
            goals = table.goals(table.finished(rows, IMAGES), SETS)
            self.assertIs(next(goal for goal in goals if "cached" in goal["name"])["reached"], reached)

    def test_without_peers(self):
        rows = table.finished(measured()[:1], IMAGES)
        self.assertIsNone(rows[0]["of_raw"])
        goals = table.goals(rows, SETS[:1])
        self.assertEqual([goal["reached"] for goal in goals if goal["measured"] is not None], [True])
        self.assertTrue(table.plain(result() | {"rows": rows, "goals": goals}))

    def test_measured_rows_are_left_as_they_are(self):
        rows = measured()
        before = copy.deepcopy(rows)
        table.finished(rows, IMAGES)
        self.assertEqual(rows, before)


class Tables(unittest.TestCase):
    def test_plain(self):
        text = table.plain(result())
        self.assertIn("MISSED", text)
        self.assertIn("not measured", text)
        told = "whole command 8.00 s, again with all cached 0.040 s, peak memory 500 MB, on engine 1, CPU provider"
        self.assertIn(told, text)
        line = next(line for line in text.splitlines() if line.startswith("the keras") and "500x375" in line)
        self.assertEqual(line.split()[-2:], ["0.57", "1.00"])

    def test_markdown_has_a_cell_a_column(self):
        lines = [line for line in table.markdown(result()).splitlines() if line.startswith("|")]
        self.assertEqual(len(lines), 2 + len(measured()))
        self.assertEqual({line.count("|") for line in lines}, {len(table.HEAD) + 1})

    def test_it_is_json(self):
        self.assertEqual(json.loads(json.dumps(result()))["rows"], result()["rows"])


class Arguments(unittest.TestCase):
    binary = ["--extractor", __file__]

    def refused(self, *arguments):
        told = io.StringIO()
        with contextlib.redirect_stderr(told), self.assertRaises(SystemExit) as ended:
            bench_features.parse([*self.binary, *arguments])
        self.assertEqual(ended.exception.code, 2)
        return told.getvalue()

    def test_peers(self):
        self.assertEqual(bench_features.parse([*self.binary, "--peers", ""]).peers, [])
        self.assertEqual(bench_features.parse(self.binary).peers, bench_features.LIBRARIES)
        self.assertIn("no jax", self.refused("--peers", "raw,jax"))

    def test_numbers_and_files(self):
        self.assertIn("--rounds must be at least 1", self.refused("--rounds", "0"))
        self.assertIn("is not a file", self.refused("--backbone", "nowhere.onnx"))
        self.assertIn("is not a folder", self.refused("--data", __file__))


if __name__ == "__main__":
    unittest.main()
