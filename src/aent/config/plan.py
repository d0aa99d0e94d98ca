"""What `aent plan` takes for granted: all assumptions behind its estimates, in one place."""

from __future__ import annotations

from pydantic import Field

from aent.config.base import Name, Strict


class Gpu(Strict):
    """A kind of GPU."""

    memory_gb: float = Field(default=80.0, gt=0)
    """Memory, in 10^9 bytes; a run that needs more is warned of."""
    peak_tflops: float = Field(gt=0)
    """Peak of dense bf16 products, from the data sheet."""
    update_utilisation: float = Field(gt=0, le=1)
    """Share of the peak that forward and backward passes reach. Assumed, not measured by us."""
    sampling_utilisation: float = Field(gt=0, le=1)
    """Share of the peak that vLLM reaches in sampling large batches; memory-bound, so that a GPU
    with relatively fewer bytes a second reaches less. Assumed, not measured by us."""


class Assumptions(Strict):
    """Assumptions of `aent plan`, whose numbers are estimates: nothing was timed on these GPUs."""

    gpus: dict[Name, Gpu] = Field(
        default={
            "A100": Gpu(peak_tflops=312, update_utilisation=0.35, sampling_utilisation=0.15),
            "H100": Gpu(peak_tflops=989, update_utilisation=0.30, sampling_utilisation=0.08),
        },
        min_length=1,
    )
    """Kinds of GPU for which hours are estimated."""
    prompt_tokens: float = Field(default=150.0, gt=0)
    """Mean length of a prompt, at most the setting's limit."""
    response_share: float = Field(default=0.35, gt=0, le=1)
    """Mean length of a response, as a share of the setting's limit."""
    transformers_slowdown: float = Field(default=8.0, ge=1)
    """How many times longer the transformers engine samples than vLLM."""
    workspace_gb: float = Field(default=2.0, ge=0)
    """Memory of a GPU that no tensor accounts for: context, library workspaces, fragmentation."""
