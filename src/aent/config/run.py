"""One resolved training run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aent.config.base import Name, Strict
from aent.config.method import Method
from aent.config.setting import Setting

# Keys of a setting's trainer that do not change what is learned.
UNTRAINED_KEYS = {
    *("memory_mb", "runtime_minutes", "state_every"),
    *("gpus", "nodes", "strategy", "compile"),
}


class Run(Strict):
    """One training run with everything it depends on."""

    name: str
    """`setting/method/seed`, the folder below results/."""
    setting_name: Name
    method_name: Name
    seed: int
    setting: Setting
    method: Method
    trust_remote_code: bool = False
    """Run the Python code that comes with the base model."""

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the training's result depends on beside its input files.

        Left out are names, titles, how checkpoints are scored, and what only the scheduler, the
        frequency of saved states or the division among processes cares about: changing those
        trains nothing again, and an interrupted run goes on with other processes.
        """
        setting = self.setting.model_dump(
            mode="json", exclude={"title": True, "evaluation": True, "trainer": UNTRAINED_KEYS}
        )
        method = self.method.model_dump(mode="json", exclude={"title"})
        return {"setting": setting, "method": method, "seed": self.seed}

    @property
    def hash(self) -> str:
        """Twelve hex digits of the recipe: equal hashes, equal training."""
        text = json.dumps(self.recipe, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
