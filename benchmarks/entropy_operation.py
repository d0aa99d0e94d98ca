"""Time and memory of log-probability + entropy, ours against its peers, in one process, one thread.

Each operation does the forward and backward pass of the same loss on the same hidden states,
weight and targets. Times are CPU seconds of the thread; rounds interleave the operations and
medians are compared. Memory is measured in a fresh process for each operation, as the largest
resident size above that with the inputs in place, less the weight's gradient once it exists. The
operations:

    full         ours: log-probability and the entropy over the whole vocabulary
    clamped      ours: log-probability and the entropy of `rank_fraction` (a quarter dropped)
    grpo         ours: log-probability alone differentiated, both entropies recorded
    trl          TRL's fused log-probability + entropy, tiles as shipped; it does not clamp
    formula      the published formula on full logits, with a top-k mask
    products     the four matrix products that none of them can avoid, alone

    python benchmarks/entropy_operation.py                              # laptop sizes: 4 min
    python benchmarks/entropy_operation.py --sizes llm --rounds 2       # 20 min, 7 GB
    python benchmarks/entropy_operation.py --growth --rounds 3          # table and plot: 10 min
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from aent.config.method import FullSpace, RankFraction
from aent.entropy import token_statistics

DROP = 0.25
COEFFICIENT = 0.01


@dataclass(frozen=True)
class Size:
    """A problem: V tokens of vocabulary, hidden width H, N positions."""

    vocabulary: int
    width: int
    tokens: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"V={self.vocabulary} H={self.width} N={self.tokens} {self.dtype}"


SIZES = {
    "laptop": [
        Size(4096, 64, 8192),
        Size(8192, 64, 8192),
        Size(8192, 128, 8192),
        Size(8192, 128, 8192, "bfloat16"),
    ],
    "llm": [Size(151_936, 1536, 1024), Size(151_936, 1536, 1024, "bfloat16")],
}
GROWTH = [Size(v, 256, n) for v in (8192, 32_768, 151_936) for n in (256, 1024)] + [
    Size(32_768, 256, n) for n in (2048, 4096)
]
# The most that clamped may take, over each operation.
TARGETS = {
    "full": {"laptop": 1.30, "float32": 1.05, "bfloat16": 1.10},
    "trl": {"laptop": 0.45, "float32": 0.85, "bfloat16": 0.65},
    "formula": {"float32": 0.80, "bfloat16": 0.80},
    "products": {"float32": 1.15},
}


@dataclass
class Inputs:
    """Tensors of a problem; gradients are asked of hidden and weight."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    advantages: Tensor
    forward_peak: int = 0
    """Largest resident size until the backward pass began, in bytes."""

    @classmethod
    def make(cls, size: Size) -> Inputs:
        """Make a policy whose logits have a standard deviation of 2, as trained ones about have."""
        generator = torch.Generator().manual_seed(0)
        dtype = getattr(torch, size.dtype)
        hidden = torch.randn(size.tokens, size.width, generator=generator)
        weight = torch.empty(size.vocabulary, size.width, dtype=dtype)
        for part in weight.split(8192):  # no float32 copy of a bfloat16 weight
            part.copy_(torch.randn(part.shape, generator=generator) * (2 / size.width**0.5))
        return cls(
            hidden.to(dtype).requires_grad_(),
            weight.requires_grad_(),
            torch.randint(size.vocabulary, (size.tokens,), generator=generator),
            torch.randn(size.tokens, generator=generator),
        )

    def backward(self, logprob: Tensor, entropy: Tensor | None) -> None:
        """Differentiate a policy gradient loss with an entropy bonus."""
        self.forward_peak = resident("VmHWM")
        loss = -(self.advantages * logprob).mean()
        if entropy is not None:
            loss = loss - COEFFICIENT * entropy.mean()
        loss.backward()
        self.hidden.grad = self.weight.grad = None


def full(inputs: Inputs) -> None:
    """Ours, entropy over the whole vocabulary."""
    got = token_statistics(inputs.hidden, inputs.weight, inputs.targets, space=FullSpace())
    inputs.backward(got.logprob, got.entropy)


def clamped(inputs: Inputs) -> None:
    """Ours, entropy over the paper's token space."""
    space = RankFraction(drop=DROP)
    got = token_statistics(inputs.hidden, inputs.weight, inputs.targets, space=space)
    inputs.backward(got.logprob, got.clamped_entropy)


def grpo(inputs: Inputs) -> None:
    """Ours, entropies recorded and not differentiated."""
    space = RankFraction(drop=DROP)
    got = token_statistics(inputs.hidden, inputs.weight, inputs.targets, space=space)
    inputs.backward(got.logprob, None)


def trl(inputs: Inputs) -> None:
    """TRL's fused operation, with the chunk that its trainers use."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as CHUNK

    logprob, entropy, *_ = ChunkedLogProbFunction.apply(
        inputs.hidden,
        inputs.weight,
        None,
        inputs.targets,
        1.0,
        CHUNK,
        None,
        1.0,
        ("log_probs", "entropy"),
    )
    inputs.backward(logprob, entropy)


def formula(inputs: Inputs) -> None:
    """The published formula as one would write it: all logits, the least likely masked away."""
    logits = (inputs.hidden @ inputs.weight.T).float()
    logprob = logits.log_softmax(1).gather(1, inputs.targets[:, None])[:, 0]
    with torch.no_grad():
        least = logits.topk(int(DROP * logits.shape[1]), dim=1, largest=False).indices
    kept = logits.scatter(1, least, -1e9)
    entropy = kept.logsumexp(1) - (kept.softmax(1) * kept).sum(1)
    inputs.backward(logprob, entropy)


def products(inputs: Inputs) -> Callable[[], None]:
    """The four matrix products, with their results' memory at hand."""
    hidden, weight = inputs.hidden.detach(), inputs.weight.detach()
    logits = hidden.new_ones(len(hidden), len(weight))
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> None:
        torch.mm(hidden, weight.T, out=logits)
        torch.mm(hidden, weight.T, out=logits)
        torch.mm(logits, weight, out=grad_hidden)
        torch.mm(logits.T, hidden, out=grad_weight)

    return run


OPERATIONS: dict[str, Callable[[Inputs], None]] = {
    "full": full,
    "clamped": clamped,
    "grpo": grpo,
    "trl": trl,
    "formula": formula,
}


def thread_seconds(run: Callable[[], None]) -> float:
    """CPU seconds of one run."""
    gc.collect()
    start = time.thread_time()
    run()
    return time.thread_time() - start


def measure_time(size: Size, names: list[str], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each operation over interleaved rounds."""
    inputs = Inputs.make(size)
    small = Inputs.make(Size(64, size.width, 16, size.dtype))
    runs = {
        name: lambda name=name: OPERATIONS[name](inputs) for name in names if name in OPERATIONS
    }
    for name in runs:  # imports and first calls, without the cost of a full round
        OPERATIONS[name](small)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for done in range(rounds):
        for name, run in runs.items():
            seconds[name].append(thread_seconds(run))
        if "products" in names:  # its two matrices of N x V live only while it runs
            seconds["products"].append(thread_seconds(products(inputs)))
        print(f"  {size}: round {done + 1} of {rounds}", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def resident(field: str) -> int:
    """Bytes of a field of this process's memory status (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def peak_bytes(size: Size, name: str) -> int:
    """Largest resident size of one run above the inputs and, once it exists, the weight's gradient.

    The forward pass is looked at by itself: its peak must not hide in the room of a gradient that
    is allocated later.
    """
    OPERATIONS[name](Inputs.make(Size(64, size.width, 16, size.dtype)))
    inputs = Inputs.make(size)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    OPERATIONS[name](inputs)
    gradient = inputs.weight.numel() * inputs.weight.element_size()
    return max(inputs.forward_peak, resident("VmHWM") - gradient) - before


def measure_memory(size: Size, name: str) -> float:
    """`peak_bytes` in MB, in a process of its own."""
    order = json.dumps({"size": asdict(size), "name": name})
    done = subprocess.run(
        [sys.executable, __file__, "--peak", order], capture_output=True, text=True, check=True
    )
    return float(done.stdout) / 1e6


def report(kind: str, size: Size, rounds: int, memory: bool) -> None:
    """Print one size's times, ratios with their targets, and memory."""
    names = [*OPERATIONS, "products"]
    seconds = measure_time(size, names, rounds)
    print(f"\n### {size}\n\n| operation | CPU s | clamped over it | target | peak MB |")
    print("|---|---|---|---|---|")
    for name in names:
        peak = f"{measure_memory(size, name):.0f}" if memory and name in OPERATIONS else ""
        target = TARGETS.get(name, {}).get("laptop" if kind == "laptop" else size.dtype)
        ratio = seconds["clamped"] / seconds[name]
        limit = "" if target is None else f"<= {target:.2f}"
        print(f"| {name} | {seconds[name]:.3f} | {ratio:.2f} | {limit} | {peak} |", flush=True)


def growth(rounds: int, output: Path) -> None:
    """Print and plot how time and memory grow with vocabulary and tokens."""
    names = ["full", "clamped", "trl", "formula"]
    rows = []
    for size in GROWTH:
        seconds = measure_time(size, names, rounds)
        rows += [(size, name, seconds[name], measure_memory(size, name)) for name in names]
    print("\n### Growth, H=256 float32\n\n| V | N | operation | CPU s | ns a logit | peak MB |")
    print("|---|---|---|---|---|---|")
    for size, name, time_s, peak in rows:
        logits = size.vocabulary * size.tokens
        print(
            f"| {size.vocabulary} | {size.tokens} | {name} | {time_s:.3f} "
            f"| {time_s / logits * 1e9:.1f} | {peak:.0f} |"
        )
    output.mkdir(parents=True, exist_ok=True)
    plot(rows, names, output / "entropy_growth.svg")


def plot(rows: list[tuple[Size, str, float, float]], names: list[str], path: Path) -> None:
    """Draw time and peak memory over vocabulary and over tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 7), layout="constrained")
    sweeps = [
        ("vocabulary", "V, vocabulary (N = 1024)", lambda s: s.tokens == 1024),
        ("tokens", "N, tokens (V = 32,768)", lambda s: s.vocabulary == 32_768),
    ]
    for column, (field, label, belongs) in enumerate(sweeps):
        for name in names:
            line = sorted(
                (getattr(s, field), t, m) for s, n, t, m in rows if n == name and belongs(s)
            )
            xs, times, peaks = zip(*line, strict=True)
            axes[0, column].plot(xs, times, marker="o", label=name)
            axes[1, column].plot(xs, peaks, marker="o", label=name)
        for row, unit in enumerate(("CPU time (s)", "peak memory (MB)")):
            axes[row, column].set(xscale="log", yscale="log", xlabel=label, ylabel=unit)
            axes[row, column].grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    figure.savefig(path)
    print(f"\nplot: {path}")


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", choices=[*SIZES], default="laptop")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="only this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--growth", action="store_true", help="growth alone, instead of sizes")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        order = json.loads(options.peak)
        print(peak_bytes(Size(**order["size"]), order["name"]))
    elif options.growth:
        growth(options.rounds, options.output)
    else:
        for size in SIZES[options.sizes]:
            if options.dtype in (None, size.dtype):
                report(options.sizes, size, options.rounds, not options.no_memory)


if __name__ == "__main__":
    main()
