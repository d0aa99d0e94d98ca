"""A plan as a table: for the terminal and for the report."""

from __future__ import annotations

from aent.plan.estimate import GB, Plan, RunPlan

Table = tuple[list[str], list[list[str]]]


def plan_table(plan: Plan) -> Table:
    """Column names and cells: a row a run, then the totals."""
    kinds = list(plan.hours)
    columns = ["run", "GPUs", "parameters", "tokens a step (at most)", "peak GB a GPU"]
    columns += ["weights", "gradients", "optimiser", "activations", "head", "KV cache"]
    columns += [f"{kind} hours" for kind in kinds]
    columns += ["checkpoints GB", "states GB", "evaluation samples"]
    rows = [_row(row, kinds, plan.assumed.workspace_gb) for row in plan.runs]
    total = [f"all {len(plan.runs)} runs", *[""] * 10]
    total += [f"{plan.hours[kind]:,.0f}" for kind in kinds]
    total += [_gb(sum(row.checkpoints for row in plan.runs)), ""]
    total.append(f"{sum(row.samples for row in plan.runs):,}")
    return columns, [*rows, total]


def _row(row: RunPlan, kinds: list[str], workspace_gb: float) -> list[str]:
    memory = row.memory
    extra = workspace_gb if row.hours else 0.0
    parts = [memory.weights, memory.gradients, memory.optimizer]
    parts += [memory.activations, memory.head, memory.cache]
    return [
        row.run.name,
        str(row.run.setting.trainer.gpus),
        _count(row.parameters),
        f"{_count(row.tokens.mean)} ({_count(row.tokens.limit)})",
        _gb(memory.peak + extra * GB),
        *map(_gb, parts),
        *(f"{row.hours[kind].total:,.0f}" if row.hours else "" for kind in kinds),
        _gb(row.checkpoints),
        _gb(row.states),
        f"{row.samples:,}",
    ]


def _gb(size: float) -> str:
    return f"{size / GB:,.0f}" if size >= 10 * GB else f"{size / GB:.2g}"


def _count(value: float) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.0f}"


def render(plan: Plan) -> str:
    """The plan for a terminal: table, totals, assumptions, warnings."""
    columns, rows = plan_table(plan)
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(line))
        for line in (list(zip(row, widths, strict=True)) for row in [columns, *rows])
    ]
    return "\n".join([*lines, "", *notes(plan), *(f"WARNING {text}" for text in plan.warnings)])


def notes(plan: Plan) -> list[str]:
    """What the numbers rest on, a sentence a line."""
    assumed = plan.assumed
    found = [
        "These are estimates. Memory: every sequence as long as it may be; peak is weights, "
        "gradients and optimiser plus the largest of sampling, backward pass and optimiser step.",
    ]
    if plan.hours:
        speeds = "; ".join(
            f"{name}: {gpu.peak_tflops:g} TFLOP/s, of which updates reach "
            f"{gpu.update_utilisation:.0%} and vLLM's sampling {gpu.sampling_utilisation:.0%}"
            for name, gpu in assumed.gpus.items()
        )
        found.append(
            f"GPU hours (update, sampling, evaluation), assumed and not measured: {speeds}; the "
            f"transformers engine samples {assumed.transformers_slowdown:g} times slower; prompts "
            f"of {assumed.prompt_tokens:g} tokens, responses of {assumed.response_share:.0%} of "
            f"their limit on average; {assumed.workspace_gb:g} GB a GPU besides tensors. Change "
            "them under `plan` in the configuration, or with --assume KEY=VALUE."
        )
    return found
