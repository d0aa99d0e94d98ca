r"""When two problems are the same text: case, white space and LaTeX's spacing do not count."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Commands that change how a formula looks and not what it says; none may be followed by a letter,
# or it would be another command. `\ ` and `\,` are single characters.
_LOOKS = re.compile(
    r"\\(?:left|right|middle|bigg?[lrm]?|displaystyle|textstyle|limits|q?quad"
    r"|(?:thin|med|thick|neg)?space)(?![a-z])"
    r"|\\hspace\*?\s*\{[^{}]*\}|\\[!,;:> \n()\[\]]|(?<!\\)[$~]"
)
_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
_WORD = re.compile(r"[^\W\d_]+|\d+")


def normalise(text: str) -> str:
    """The text in lower case without white space and what is there for the eye alone."""
    return "".join(_plain(text).split())


def words(text: str) -> list[str]:
    """The text's words and numbers, in order; names of LaTeX commands are words too."""
    return _WORD.findall(_plain(text))


def runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    """All runs of `length` words; none of a shorter text."""
    found = words(text)
    return zip(*(found[start:] for start in range(length)), strict=False)


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).lower()
    return _FRACTION.sub(r"\\frac", _LOOKS.sub(" ", text))
