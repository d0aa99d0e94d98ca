"""The engines that sample responses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aent.config.base import KindShorthand, Strict


class TransformersEngine(Strict):
    """Sampling with the transformers model itself; on CPUs and GPUs."""

    kind: Literal["transformers"] = "transformers"


class VllmEngine(Strict):
    """Sampling with vLLM through TRL's `VLLMGeneration`; on GPUs, with `pip install trl[vllm]`."""

    kind: Literal["vllm"] = "vllm"
    mode: Literal["colocate", "server"] = "colocate"
    """colocate: on the GPUs that train; server: on GPUs of a server that was started apart."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Processes, with a GPU each, that hold one copy of the weights together; colocate only."""
    memory_fraction: float = Field(default=0.4, gt=0, le=1)
    """Share of a GPU's memory for weights and key/value cache; colocate only."""
    sleep: bool = True
    """Free that memory while the policy is updated; colocate only."""
    server_url: str | None = None
    """Address of the server, such as `http://gpu7:8000`; server only."""
    server_timeout_s: float = Field(default=240, gt=0)
    """Seconds to wait for the server to be up."""
    group_port: int = Field(default=51216, ge=1, le=65535)
    """Port over which weights go to the server."""
    importance_cap: float | None = Field(default=2.0, gt=0)
    """vLLM's probabilities differ a little from the trainer's: a token's loss is weighted by the
    trainer's over vLLM's, at most this much. When null, vLLM's stand as the old policy's."""

    @model_validator(mode="after")
    def _addressed(self) -> VllmEngine:
        if (self.mode == "server") != (self.server_url is not None):
            raise ValueError(f"mode {self.mode} does not go with server_url {self.server_url}")
        if self.mode == "server" and self.tensor_parallel > 1:
            raise ValueError(
                "tensor_parallel is the server's own affair in mode server; leave it 1"
            )
        return self


Engine = Annotated[TransformersEngine | VllmEngine, Field(discriminator="kind"), KindShorthand]
