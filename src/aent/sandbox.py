"""No text is run as code: what sympy would evaluate is read instead, and the rest is refused.

sympy turns a string into a number by writing a Python expression and calling `eval` on it;
math-verify reads plain expressions the same way, and sympy's `lambdify` writes the names of symbols
into code. Their grammars let little through, which is a promise about code that is not ours. Here
numbers are read without `eval`, and an audit hook, which Python offers no way to remove, refuses
code made at run time, processes, sockets and writing to files.
"""

from __future__ import annotations

import re
import sys
from typing import Any

# Python's own limit for int(text) is 4300 digits.
_RATIONAL = re.compile(r"([+-]?[0-9]{1,4000})(?:/([0-9]{1,4000}))?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,4})?")

# Modules that make code from templates of their own, into which no text of an answer goes.
_TEMPLATES = {"dataclasses", "collections", "typing", "sympy.polys.monomials"}
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.")


class ForbiddenError(NotImplementedError):
    """A comparison was about to run text as code, or to do what no comparison needs.

    sympy takes a NotImplementedError as an invitation to try another method.
    """


def read_number(text: str, *_: Any, **__: Any) -> Any:
    """A plain number as sympy's; stands in for sympy's `parse_expr`.

    Raises:
        SyntaxError: it is anything else; sympy reports this as a text that it cannot read.
    """
    from sympy import Float, Rational

    if match := _RATIONAL.fullmatch(text):
        return Rational(int(match[1]), int(match[2] or 1))
    if _DECIMAL.fullmatch(text):
        return Float(text)
    raise SyntaxError(f"not a number: {text!r:.80}")


def forbid_code() -> None:
    """From here on this process runs no text as code. There is no way back.

    Modules are still imported: their code comes from files.
    """
    from math_verify import parser
    from sympy.parsing import sympy_parser

    sympy_parser.parse_expr = parser.parse_expr = read_number
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("compile", "exec"):
        # A module is compiled from its file and has the file's name.
        name = arguments[1] if event == "compile" else arguments[0].co_filename
        made_up = not isinstance(name, str) or name.startswith("<")
        if made_up and sys._getframe(1).f_globals.get("__name__") not in _TEMPLATES:
            raise ForbiddenError(f"{event} of {name}: {arguments[0]!r:.80}")
    elif event == "open":
        mode = arguments[1]
        if isinstance(mode, str) and set(mode) & set("wax+"):
            raise ForbiddenError(f"open for writing: {arguments[0]!r:.80}")
    elif event.startswith(_FORBIDDEN):
        raise ForbiddenError(event)
