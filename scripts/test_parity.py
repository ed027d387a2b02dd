#!/usr/bin/env python3
"""Runs scripts/parity.py with random weights and bounds what it finds.

The first run makes the export's environment (minutes, and a download). What that needs, this needs. Standard library
only.
"""

import json
import subprocess
import sys
import unittest

from test_read_store import SCRIPTS

# Of JPEG files decoded by others: levels of 255, about twice what photos give.
PIXEL_MEAN = {"fast": 2.5, "accurate": 0.5}
LEAST_COSINE = 0.99


class Parity(unittest.TestCase):
    def test_features_are_those_of_keras(self):
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "parity.py"), "--json"], stdout=subprocess.PIPE, text=True
        )
        self.assertEqual(done.returncode, 0)
        found = json.loads(done.stdout)
        self.assertGreaterEqual(found["images"], 16)
        for preset in ["caffe", "unit"]:
            for fed in ["same_pixels", "same_input"]:
                self.assertLessEqual(found[fed][preset]["relative"], 1e-4, (fed, preset))
                self.assertGreater(found[fed][preset]["least_cosine"], 0.999999, (fed, preset))
        self.assertLessEqual(found["resize"]["max"], 1e-3)
        for decoder, stages in found["from_jpeg"].items():
            for stage in ["decoded", "resized"]:
                self.assertLessEqual(stages[stage]["mean"], PIXEL_MEAN[decoder], (decoder, stage))
            for preset in ["caffe", "unit"]:
                self.assertGreater(stages[f"pooled_{preset}"]["least_cosine"], LEAST_COSINE, (decoder, preset))


if __name__ == "__main__":
    unittest.main()
