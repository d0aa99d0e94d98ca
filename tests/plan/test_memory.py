"""The estimate of memory against what a training run on this machine really takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "measure_peak.py"
# Freed memory is given back, so that what is in use is measured, and not what glibc keeps: that is
# up to 60% more, another amount in each run.
RETURNING = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
LAPTOP = {"kv_heads": 2}
GROUPED = {
    "vocabulary": 8192,
    "hidden": 128,
    "intermediate": 384,
    "layers": 3,
    "heads": 4,
    "kv_heads": 1,
}
# No problem has a longer prompt, and the longest have this length: what is estimated happens.
LENGTHS = {"max_prompt_tokens": 34, "max_response_tokens": 32}
CASES = {
    "the laptop's step": {
        "model": LAPTOP,
        "trainer": {"prompts": 32, "samples": 8, "minibatches": 2, "micro_batch_tokens": 4096},
        "rollout": LENGTHS,
    },
    "the laptop's model, a whole minibatch at once": {
        "model": LAPTOP,
        "trainer": {"prompts": 24, "samples": 8, "minibatches": 1},
        "rollout": LENGTHS,
    },
    "another model, with grouped heads": {
        "model": GROUPED,
        "trainer": {"prompts": 6, "samples": 8, "minibatches": 1},
        "rollout": LENGTHS,
    },
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("name", CASES)
def test_estimate_covers_the_measured_peak_and_little_more(name):
    command = [sys.executable, str(SCRIPT), json.dumps(CASES[name])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=RETURNING)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert 1 < found["estimated"] / found["measured"] < 1.3, found
