"""The estimate of memory against what a training run on this machine really takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "measure_peak.py"
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
def test_estimate_is_within_a_quarter_of_the_measured_peak(name):
    command = [sys.executable, str(SCRIPT), json.dumps(CASES[name])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert 0.75 < found["estimated"] / found["measured"] < 1.25, found
