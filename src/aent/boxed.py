r"""The final answer of a solution: the content of its last `\boxed{...}`."""

from __future__ import annotations

import re

_BARE = re.compile(r"\\boxed\s+([^\s{}$\\][^\s{}$]*?)[.,;]?(?=[\s$]|$)")
_FRAMED = re.compile(r"\\fbox\s*\{")
_OPENING = re.compile(r"\\boxed\s*\{")
# An escaped character is never a delimiter: `\{` and `\}` print braces.
_DELIMITER = re.compile(r"\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""Content of the `\boxed{...}` that opens last, stripped of outer white space.

    Braces are balanced; escaped braces (`\{`) do not count. Of two nested boxes the inner one opens
    last. Takes time linear in the text's length.

    Args:
        text: a solution or a model's completion.

    Returns:
        The content, possibly empty; None without a box, or when the last one never closes.
    """
    return _last(_OPENING, text)


def written_answer(solution: str) -> str | None:
    r"""The answer of a solution that people wrote, as in MATH.

    As `last_boxed`; where no such box is, `\boxed 7` and `\fbox{7}` count too, of which MATH has a
    few. A model's completion is held to braces.
    """
    answer = last_boxed(solution)
    if answer is None and (bare := _BARE.findall(solution)):
        answer = bare[-1]
    return answer if answer is not None else _last(_FRAMED, solution)


def _last(opening: re.Pattern[str], text: str) -> str | None:
    """Content of the braces that open last; None without any, or when they never close."""
    start = None
    for match in opening.finditer(text):
        start = match.end()
    if start is None:
        return None
    depth = 1
    for match in _DELIMITER.finditer(text, start):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
        if depth == 0:
            return text[start : match.start()].strip()
    return None
