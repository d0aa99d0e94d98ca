"""A lighteval model that samples with a rollout engine: its route for custom models.

lighteval's own transformers backend cannot sample several answers a problem and cuts some of those
it does sample; its sample cache takes replaced weights for the old ones. None of it is used here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from lighteval.models.abstract_model import LightevalModel
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc
from transformers import PreTrainedTokenizerBase

from aent.config.setting import Evaluation
from aent.rollout.engine import Engine, Sampling

log = logging.getLogger(__name__)


@dataclass
class SampledResponse(ModelResponse):
    """Responses to one problem, with which of them were cut at the length limit."""

    truncated: list[bool] = field(default_factory=list)


class RolloutModel(LightevalModel):
    """Samples the responses that lighteval scores."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        encode: Callable[[str], list[int]],
        evaluation: Evaluation,
        positions: int,
        device: torch.device | str = "cpu",
        step: int = 0,
    ):
        """Wrap an engine.

        Args:
            engine: samples responses.
            tokenizer: decodes them.
            encode: turns a problem into prompt tokens, as in training.
            evaluation: how to sample.
            positions: longest sequence that both model and engine take.
            device: where the engine takes its random numbers.
            step: the checkpoint's step, a part of the seed.

        Raises:
            ValueError: a response may be as long as the model's longest sequence.
        """
        if positions <= evaluation.max_response_tokens:
            raise ValueError(
                f"evaluation.max_response_tokens {evaluation.max_response_tokens} leaves no room "
                f"for a prompt: the model has {positions} positions"
            )
        self._tokenizer = tokenizer
        self.engine, self.encode, self.evaluation = engine, encode, evaluation
        self.positions, self.device, self.step = positions, device, step

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that decodes responses."""
        return self._tokenizer

    @property
    def add_special_tokens(self) -> bool:
        """Whether lighteval should add special tokens: the prompt function has done so."""
        return False

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens."""
        return self.positions

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """Sampled responses to each problem (lighteval's name for generation of any kind)."""
        responses: dict[int, SampledResponse] = {}
        for task in dict.fromkeys(doc.task_name for doc in docs):
            places = [place for place, doc in enumerate(docs) if doc.task_name == task]
            answers = self._respond(task, [docs[place] for place in places])
            responses |= dict(zip(places, answers, strict=True))
        return [responses[place] for place in range(len(docs))]

    def _respond(self, task: str, docs: list[Doc]) -> list[SampledResponse]:
        """Responses to one benchmark; its name, the step and the seed decide the noise.

        So scores do not depend on which checkpoints and benchmarks share a process, and a problem
        meets the same noise in all runs of a setting: methods are compared on equal terms.
        """
        evaluation = self.evaluation
        room = self.positions - evaluation.max_response_tokens
        prompts = [self.encode(doc.query) for doc in docs]
        long = sum(len(prompt) > room for prompt in prompts)
        if long:
            log.warning("%s: %d prompts cut to their last %d tokens", task, long, room)
        seed = hashlib.sha256(f"{task}/{self.step}/{evaluation.seed}".encode()).digest()
        generator = torch.Generator(self.device).manual_seed(int.from_bytes(seed[:4]))
        sampling = Sampling(
            samples=evaluation.samples,
            max_tokens=evaluation.max_response_tokens,
            temperature=evaluation.temperature,
            top_p=evaluation.top_p,
            top_k=evaluation.top_k,
        )
        rollouts = self.engine.generate([p[-room:] for p in prompts], sampling, generator)
        lengths = rollouts.response_mask.sum(dim=1).tolist()
        rows = [row[:n] for row, n in zip(rollouts.response_ids.tolist(), lengths, strict=True)]
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        truncated = rollouts.truncated.tolist()
        samples = evaluation.samples
        return [
            SampledResponse(
                input=doc.query,
                input_tokens=prompts[i],
                text=texts[i * samples : (i + 1) * samples],
                output_tokens=rows[i * samples : (i + 1) * samples],
                truncated=truncated[i * samples : (i + 1) * samples],
            )
            for i, doc in enumerate(docs)
        ]

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        """Not needed by any benchmark here.

        Raises:
            TypeError: always; benchmarks of this project are generative.
        """
        raise TypeError(f"{docs[0].task_name}: only generative benchmarks are supported")

    def loglikelihood_rolling(self, docs: list[Doc]) -> list[ModelResponse]:
        """As `loglikelihood`."""
        return self.loglikelihood(docs)
