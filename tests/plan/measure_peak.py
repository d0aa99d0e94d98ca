"""Largest resident size of a training run above that of a process that has already trained.

`python measure_peak.py '{"model": {...}, "trainer": {...}, ...}'` prints measured and estimated
bytes as json. Started afresh for each measurement: memory that was freed is not always given back.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from aent.config import Config, parse
from aent.models import build_tokenizer, create_model, save_model
from aent.plan.memory import estimate_memory
from aent.plan.shape import shape_of
from aent.problems import load_problems, write_problems
from aent.trainer import train

WARM_UP = {
    "model": {"vocabulary": 1600, "hidden": 16, "intermediate": 32, "layers": 1},
    "trainer": {"prompts": 2, "samples": 2, "minibatches": 1},
    "rollout": {"max_response_tokens": 4},
}


def configuration(case: dict[str, Any]) -> Config:
    """Two steps: from the second on, the optimiser has its state."""
    trainer = {"steps": 2, "save_every": 2, "state_every": 2} | case["trainer"]
    problems = {"kind": "synthetic", "count": 300}
    setting = {
        "model": "m",
        "problems": "p",
        "rollout": case["rollout"],
        "trainer": trainer,
        "evaluation": {"benchmarks": ["p"]},
    }
    runs = {"settings": ["s"], "methods": ["grpo"], "seeds": [0]}
    return parse(
        {
            "problems": {"p": problems},
            "models": {"m": {"kind": "scratch", "warm_start": {"problems": "p"}} | case["model"]},
            "settings": {"s": setting},
            "methods": {"grpo": {"advantage": "grpo", "surrogate": "ppo_clip"}},
            "tables": {"t": {"kind": "scores", "title": "T"} | runs},
        }
    )


def run(config: Config, folder: Path) -> None:
    """Train; responses are as long as they may be, because fresh weights hardly ever end one."""
    model = config.models["m"]
    save_model(create_model(model), build_tokenizer(model.vocabulary), folder / "model")
    write_problems(folder / "problems.jsonl", load_problems(config.problems["p"]))
    train(config.runs()[0], folder / "model", folder / "problems.jsonl", folder / "run")


def resident(field: str) -> int:
    """Bytes of a field of this process's memory status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Measure and estimate one case."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    config = configuration(json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        run(configuration(WARM_UP), Path(folder) / "warm-up")  # imports, and what is loaded by use
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = resident("VmRSS")
        run(config, Path(folder) / "measured")
        measured = resident("VmHWM") - before
    memory = estimate_memory(config.runs()[0], shape_of(config, "m"))
    parts = {"resident": memory.resident} | memory.moments
    print(json.dumps({"measured": measured, "estimated": memory.peak, "parts": parts}))


if __name__ == "__main__":
    main()
