r"""The final answer of a solution: the content of its last `\boxed{...}`."""

from __future__ import annotations

import re

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
    start = None
    for match in _OPENING.finditer(text):
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
