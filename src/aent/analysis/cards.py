"""Data cards as a table: what each filter dropped, lengths, types of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aent.config import Config

COLUMNS = ["Name", "Problems", "From the source to here", "Words a problem", "Characters an answer"]
COLUMNS += ["Answers"]


def card_table(config: Config, cards: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Columns and rows, a row a problem set.

    Args:
        config: for titles.
        cards: as `aent.problems.card.describe_problems` gives them, by name.
    """
    rows = []
    for name, card in cards.items():
        lengths = card["lengths"]
        rows.append(
            [
                config.problems[name].title or name,
                f"{card['steps'][-1]['left']:,}",
                _steps(card),
                _spread(lengths["problem_words"]),
                _spread(lengths["answer_characters"]),
                _shares(card["answer_types"]),
            ]
        )
    return {"columns": COLUMNS, "rows": rows}


def _steps(card: Mapping[str, Any]) -> str:
    parts = []
    for step in card["steps"]:
        text = f"{step['name']} {step['left']:,}"
        if step["dropped"]:
            by = ", ".join(f"{name} {count:,}" for name, count in (step["by"] or {}).items())
            text += f" (dropped {step['dropped']:,}{': ' + by if by else ''})"
        parts.append(text)
    if commit := card["source"].get("commit"):
        parts.append(f"commit {commit}")
    return "; ".join(parts)


def _spread(values: Mapping[str, float]) -> str:
    return f"{values['median']:g} ({values['min']:g} to {values['max']:g})"


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counts.items())
