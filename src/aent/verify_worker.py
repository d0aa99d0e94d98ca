"""A process that compares answers with math-verify; it may hang or die, and nothing is lost.

Reads a JSON line {extracted, answer} at a time from standard input and answers {score, parsed}, or
null where the comparison was over its limits. It imports no torch. The work is done in a fork,
which the kernel holds to limits of memory and of CPU time a comparison: over the limit it dies
wherever it is, also when its parents are long gone, and the next fork is there in milliseconds.
Texts are parsed by a grammar, never evaluated as code: `aent.sandbox` makes the interpreter refuse.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import resource
import signal
import sys
from typing import Any

from aent.sandbox import forbid_code

MEMORY = 1 << 30  # bytes of address space; an ordinary comparison is content with a tenth

# math-verify joins what `and` or `or` stand between. From any other \text on it drops all that
# precedes the last brace, as if it were one unit.
_JOINT = re.compile(r"\\text\s*\{\s*(?:and|or)\s*\}")
_UNIT = re.compile(
    r"(?<=\S)\s*\\(?:text\w*|mbox|math(?:rm|it|bf))\{(.*)\}(?:\^\d|\{\^\d\})?$", re.DOTALL
)
_EXPONENT = re.compile(r"\^\s*(?:\{\s*-?[0-9]+\s*\}|-?[0-9]+)")


def compare(extracted: str, answer: str) -> tuple[bool, bool]:
    """Whether the two are mathematically equal, and whether the first one could be parsed."""
    from math_verify import verify

    found = read(extracted)
    if not found:
        return False, False
    return bool(verify(read(answer), found, timeout_seconds=0)), True


def read(boxed: str) -> list[Any]:
    r"""What math-verify makes of a box's content: an expression, and the text.

    The content counts as a whole, as LaTeX. math-verify would also look for a number somewhere in
    what it cannot read, would read plain expressions with Python's `eval`, and would take
    `20\text{ or 21}` for 20 of some unit. A full stop at the end belongs to the sentence.
    """
    content = boxed.rstrip().removesuffix(".")
    unit = _UNIT.search(_JOINT.sub(";", content))
    if unit and re.search("[0-9]", _EXPONENT.sub("", unit[1])):
        return []
    from math_verify import LatexExtractionConfig, parse

    whole = LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0)
    # A time limit of 0 switches math-verify's own, signal-based limits off: the parent has one.
    found: list[Any] = parse(
        f"\\boxed{{{content}}}", [whole], extraction_mode="first_match", parsing_timeout=0
    )
    return found


def main() -> None:
    """Serve comparisons until standard input closes."""
    limit_s = float(sys.argv[1])
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it may be ignored where we come from
    # Ctrl-C, or the end of a cluster job, is the parent's matter, which closes our input. Dying of
    # it first would look like a wrong answer.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Unused limits stay as they are; a lower hard limit of the user's own must not be raised.
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)  # math-verify logs each text that it cannot read
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    # Imports and parsers are loaded by use; that second is paid before a comparison is timed.
    for example in ("(\\frac{1}{2}, x^2]", "1e3"):
        compare(example, "0.5")
    forked = _fork(answers, limit_s, ready=True)
    while _over_limit(forked):
        _answer(answers, None)
        forked = _fork(answers, limit_s, ready=False)


def _fork(answers: int, limit_s: float, ready: bool) -> int:
    """A process that serves comparisons; returns its id. Says first that it is there, if asked."""
    if child := os.fork():
        return child
    try:
        forbid_code()
        if ready:
            _answer(answers, {})
        _serve(answers, limit_s)
        os._exit(0)
    finally:
        os._exit(1)


def _over_limit(child: int) -> bool:
    """Wait for a fork to end; whether the limit ended it, which only a comparison can exceed.

    Whatever else it died of, somebody may or may not be waiting for an answer: then the parent,
    who knows, starts this process anew.
    """
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF


def _serve(answers: int, limit_s: float) -> None:
    """Answer one request after the other, each within `limit_s` seconds of CPU time."""
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # the signal ends the process
        try:
            score, parsed = compare(request["extracted"], request["answer"])
        except Exception:  # whatever sympy raises on odd input: it is no answer
            score, parsed = False, False
        # Before the answer: who has answered must not die of this question any more.
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(answers, {"score": float(score), "parsed": parsed})


def _answer(answers: int, reply: dict[str, Any] | None) -> None:
    """Write a line to the parent, if it still lives."""
    with contextlib.suppress(BrokenPipeError):
        os.write(answers, (json.dumps(reply) + "\n").encode())


if __name__ == "__main__":
    main()
