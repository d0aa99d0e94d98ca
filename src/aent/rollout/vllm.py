"""Sampling with vLLM, as TRL's `VLLMGeneration` drives it: colocated with training, or a server.

vLLM keeps weights of its own, so the policy's are sent to it before each step's sampling, and it
draws random numbers of its own, so a run that samples with it does not repeat bit for bit. Its
log-probabilities differ a little from the trainer's; `aent.importance` corrects for that.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aent.config.engine import VllmEngine as VllmConfig
from aent.processes import Processes, Share
from aent.rollout.engine import Rollouts, Sampling
from aent.rollout.padding import left_padded, right_padded


class VllmError(RuntimeError):
    """vLLM or TRL is not installed; the message says what to install."""


class VllmEngine:
    """An `Engine` over vLLM. All processes call it together, with equally many prompts."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: list[int],
        config: VllmConfig,
        *,
        positions: int,
        rows: int,
        processes: Processes,
        following: bool,
        trust_remote_code: bool,
    ):
        """Start vLLM with the model's directory, or find the server.

        Args:
            model: the policy; vLLM opens the directory it came from, and later gets its weights.
            tokenizer: its tokenizer.
            eos_ids: tokens that end a response.
            config: mode and memory.
            positions: longest prompt and response together, in tokens.
            rows: sequences sampled at once.
            processes: those that sample.
            following: the model's weights change between two calls.
            trust_remote_code: vLLM too may run the Python code that comes with the model.

        Raises:
            VllmError: vLLM or TRL is missing.
        """
        self.pad_id, self.eos_ids, self.following = tokenizer.pad_token_id, set(eos_ids), following
        self.device = processes.device
        self.generation = vllm_generation()(
            model=model,
            accelerator=processes.accelerator(),
            processing_class=tokenizer,
            mode=config.mode,
            server_base_url=config.server_url,
            server_timeout=config.server_timeout_s,
            group_port=config.group_port,
            tensor_parallel_size=config.tensor_parallel,
            gpu_memory_utilization=config.memory_fraction,
            max_model_length=positions,
            max_num_seqs=rows,
            # A model that does not change is not worth waking and sending again.
            enable_sleep_mode=config.mode == "colocate" and config.sleep and following,
            trust_remote_code=trust_remote_code,
            logprobs=0,  # of the sampled token
        )

    def use(self, model: PreTrainedModel) -> None:
        """Sample from another model of the same shape from now on."""
        self.generation.model = model
        self.generation.sync_weights()

    def generate(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        generator: torch.Generator,
        share: Share | None = None,
    ) -> Rollouts:
        """Sample responses; see `Engine.generate`. Neither generator nor share decide anything."""
        generation = self.generation
        generation.temperature, generation.top_p = sampling.temperature, sampling.top_p
        generation.top_k = sampling.top_k or 0  # 0 is all
        generation.max_completion_length = sampling.max_tokens
        if self.following:
            generation.sync_weights()
        rows = [prompt for prompt in prompts for _ in range(sampling.samples)]
        _, completions, logprobs, _ = generation.generate(rows, None, sampling.samples)
        return self._rollouts(rows, completions, logprobs)

    def _rollouts(
        self, rows: list[list[int]], completions: list[list[int]], logprobs: list[list[list[Any]]]
    ) -> Rollouts:
        completions = [list(tokens) for tokens in completions]
        chosen = [
            [math.nan if values[0] is None else values[0] for values in row] for row in logprobs
        ]
        lengths = torch.tensor([len(tokens) for tokens in completions], device=self.device)
        ended = [bool(tokens) and tokens[-1] in self.eos_ids for tokens in completions]
        prompt_ids, prompt_mask = left_padded(rows, self.pad_id, self.device)
        response_ids = right_padded(completions, self.pad_id, torch.long, self.device)
        width = torch.arange(response_ids.shape[1], device=self.device)
        return Rollouts(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            response_ids=response_ids,
            response_mask=width < lengths[:, None],
            logprobs=right_padded(chosen, 0.0, torch.float32, self.device),
            truncated=~torch.tensor(ended, device=self.device),
        )


def vllm_generation() -> Any:
    """TRL's class, where TRL and vLLM are installed.

    Raises:
        VllmError: one of them is not.
    """
    try:
        from trl.generation.vllm_generation import VLLMGeneration
        from trl.import_utils import is_vllm_available
    except ImportError as error:
        raise VllmError(f"engine vllm needs TRL: pip install 'trl[vllm]' ({error})") from error
    if not is_vllm_available():
        raise VllmError("engine vllm needs vLLM in a version TRL knows: pip install 'trl[vllm]'")
    return VLLMGeneration
