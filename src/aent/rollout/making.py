"""The engine that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aent.config.engine import Engine as EngineConfig
from aent.config.engine import VllmEngine as VllmConfig
from aent.models import eos_ids
from aent.processes import Processes
from aent.rollout.engine import Engine
from aent.rollout.transformers import TransformersEngine


def make_engine(
    config: EngineConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: int,
    positions: int,
    processes: Processes,
    whole: Callable[[], AbstractContextManager[None]] = nullcontext,
    following: bool = False,
    trust_remote_code: bool = False,
) -> Engine:
    """An engine over a model.

    Args:
        config: which engine, and its keys.
        model: the model.
        tokenizer: its tokenizer.
        rows: sequences sampled at once in a process.
        positions: longest prompt and response together, in tokens.
        processes: those that sample.
        whole: around sampling with the model itself, see `TransformersEngine`.
        following: the model's weights change between two calls.
        trust_remote_code: for engines that open the model themselves.

    Raises:
        aent.rollout.vllm.VllmError: vLLM is asked for and not installed.
    """
    ends = eos_ids(model, tokenizer)
    if isinstance(config, VllmConfig):
        from aent.rollout.vllm import VllmEngine  # late: few need it

        return VllmEngine(
            model,
            tokenizer,
            ends,
            config,
            positions=positions,
            rows=rows,
            processes=processes,
            following=following,
            trust_remote_code=trust_remote_code,
        )
    return TransformersEngine(model, tokenizer.pad_token_id, ends, rows, whole)
