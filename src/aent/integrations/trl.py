"""AEnt for people who train with TRL: `GRPOTrainer` with a clamped entropy bonus.

What differs from TRL's own bonus (`entropy_coef`): the entropy is that of the policy renormalised
on a token space, the coefficient follows a rule of this project, and the entropies come from the
same tiled operation as the log-probabilities, one forward pass for all of them.

A user of TRL changes two names::

    from aent.integrations.trl import AEntGRPOConfig, AEntGRPOTrainer

    config = AEntGRPOConfig(
        token_space={"kind": "rank_fraction", "drop": 0.33},
        coefficient_rule={"kind": "adaptive", "initial": 0.002, "low": 0.15, "high": 0.24,
                          "rate": 0.002, "min": 0.0006, "max": 0.009, "warmup_steps": 30},
        ...,  # everything that GRPOConfig takes
    )
    AEntGRPOTrainer(model, reward_funcs, config, dataset).train()

A *step* of the coefficient is a generation batch: it ends with the optimizer step after which TRL
generates anew. `docs/trl.md` has the details and a script to run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from aent.config import ConfigError
from aent.entropy import CoefficientController, make_coefficient
from aent.forward import changed_logits

try:
    from trl import GRPOTrainer

    from aent.integrations.trl_config import AEntGRPOConfig
    from aent.integrations.trl_head import add_entropy_head
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise ImportError("aent.integrations.trl needs TRL: pip install .[trl]") from error

__all__ = ["AEntGRPOConfig", "AEntGRPOTrainer"]

log = logging.getLogger(__name__)

STATE_NAME = "aent_coefficient.json"
"""File of the controller's state in a checkpoint."""


class AEntGRPOTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer` whose loss is TRL's minus lambda times the mean clamped entropy.

    Every completion token of a generation batch weighs the same in the mean, as in TRL's `dapo`
    loss, whatever the number of minibatches, accumulation steps and processes. Without a rule the
    loss is TRL's alone; the entropies are logged all the same.

    Raises:
        TypeError: The arguments are not an `AEntGRPOConfig`.
        ConfigError: Model or options that the entropy term does not support.
    """

    args: AEntGRPOConfig
    model: PreTrainedModel

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any = None,
        args: AEntGRPOConfig | None = None,
        *others: Any,
        **options: Any,
    ) -> None:
        if options.get("peft_config") is not None or hasattr(model, "peft_config"):
            raise ConfigError("peft_config: adapters are not supported; train the whole model")
        args = AEntGRPOConfig() if args is None else args
        if not isinstance(args, AEntGRPOConfig):
            raise TypeError(f"args must be an AEntGRPOConfig (given: {type(args).__name__})")
        super().__init__(model, reward_funcs, args, *others, **options)
        for reason in _unsupported(self):
            raise ConfigError(f"AEntGRPOTrainer does not support {reason}")
        term = args.entropy_term()
        rule = term.coefficient_rule
        self.controller: CoefficientController | None = make_coefficient(rule) if rule else None
        """Rule and value of lambda; none without an entropy term."""
        self.finished_steps = 0
        """Generation batches that were trained on."""
        self._generation_steps: int = args.steps_per_generation  # type: ignore[assignment]
        self._sums: Any = 0  # [4]: both entropies, kept mass and tokens of the step so far
        self._measured: tuple[Tensor, ...] = ()  # of the micro-batch at hand
        add_entropy_head(self.model, self.temperature, term.token_space, args.cast_lm_head_to_fp32)

    # --- Loss ---

    def _get_per_token_logps_and_entropies(
        self, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        logps, packed, aux_loss = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if packed is None:
            return logps, None, aux_loss
        if packed.ndim != 3:
            raise RuntimeError("this version of TRL does not call the model's head as 1.16 does")
        self._measured = packed.unbind(-1)
        return logps, self._measured[0], aux_loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        measured, self._measured = self._measured, ()
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        full, clamped, kept = ((value * mask).sum() for value in measured)
        sums = torch.stack([full, clamped, kept, mask.sum()]).detach()
        train = self.model.training
        if train:
            self._sums = self._sums + sums
        else:
            self._record("eval", sums)
        if self.controller is None:
            return loss
        tokens = inputs["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
        if train:  # tokens of the generation batch -> of one optimizer step
            tokens *= self.current_gradient_accumulation_steps / self._generation_steps
        return loss - self.controller.value * clamped / tokens

    # --- Coefficient ---

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Train on one micro-batch; the last one of a step moves the coefficient."""
        loss = super().training_step(*args, **kwargs)
        used_up = self._step % (self._generation_steps * self.num_iterations) == 0
        # The coefficient must not move between micro-batches whose gradients are summed.
        if used_up and self.accelerator.sync_gradients:
            self._finish_step()
        return loss

    def _finish_step(self) -> None:
        """Record the step that ends and move lambda by its clamped entropy, on all processes."""
        sums, self._sums = self._sums, 0
        self.finished_steps += 1
        clamped = self._record("train", sums)
        # Without a token (all completions truncated and masked) there is nothing to react to.
        if self.controller is not None and clamped is not None:
            self.controller.update(self.finished_steps, clamped)

    def _record(self, mode: str, sums: Tensor) -> float | None:
        """Log token means over all processes; return the clamped entropy, in nats."""
        *sums, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        if tokens == 0:
            return None
        full, clamped, kept = (value / tokens for value in sums)
        coefficient = self.controller.value if self.controller else 0.0
        metrics = {
            "entropy/full": full,
            "entropy/clamped": clamped,
            "entropy/kept_mass": kept,
            "entropy/coefficient": coefficient,
            "loss/entropy": -coefficient * clamped,
        }
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        return clamped

    # --- Checkpoints ---

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.controller is None or not self.args.should_save:
            return
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        state = {
            "rule": self.args.coefficient_rule,
            "finished_steps": self.finished_steps,
            "controller": self.controller.state_dict(),
        }
        path = Path(self._get_output_dir(trial=trial)) / name / STATE_NAME
        path.write_text(json.dumps(state, indent=2) + "\n")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.controller is None:
            return
        path = Path(checkpoint) / STATE_NAME
        if not path.exists():
            log.warning("%s is missing: the coefficient starts at %g", path, self.controller.value)
            return
        try:
            state = json.loads(path.read_text())
            self.finished_steps = int(state["finished_steps"])
            same_rule = state["rule"] == self.args.coefficient_rule
            if same_rule:
                self.controller.load_state_dict(state["controller"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: not a coefficient's state, {error!r}") from error
        if not same_rule:
            log.warning("coefficient_rule differs from %s: lambda starts anew", path)


def _unsupported(trainer: AEntGRPOTrainer) -> Iterator[str]:
    """Name what the entropy term would get wrong or ignore."""
    if hasattr(trainer.model, "peft_config"):
        yield "adapters; train the whole model"
    if trainer._is_vlm:
        yield "vision-language models (a processor was given or loaded); use a text model"
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        yield "DeepSpeed and FSDP; use one process or data parallelism (DDP)"
    if trainer.aux_loss_enabled:
        yield "the load-balancing loss of mixture-of-experts models; set router_aux_loss_coef=0"
    yield from changed_logits(trainer.model)
