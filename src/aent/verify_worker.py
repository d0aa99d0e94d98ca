"""A process that compares answers with math-verify; it may hang or die, and nothing is lost.

Reads a JSON line {extracted, answer} at a time from standard input and answers {score, parsed}.
It imports no torch, holds itself to a memory limit, and dies by alarm should its parent be gone
while a comparison runs for ever. Texts are parsed by a grammar, never evaluated as code.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys

MEMORY = 3 << 30  # bytes of address space; sympy alone takes about 0.5


def compare(extracted: str, answer: str) -> tuple[bool, bool]:
    """Whether the two are mathematically equal, and whether the first one could be parsed."""
    from math_verify import parse, verify

    # A time limit of 0 switches math-verify's own, signal-based limits off: the parent has one.
    found = parse(f"\\boxed{{{extracted}}}", parsing_timeout=0)
    if not found:
        return False, False
    gold = parse(f"\\boxed{{{answer}}}", parsing_timeout=0)
    return bool(verify(gold, found, timeout_seconds=0)), True


def main() -> None:
    """Serve comparisons until standard input closes."""
    alarm_s = int(sys.argv[1])
    # Unused limits stay as they are; a lower hard limit of the user's own must not be raised.
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    logging.disable(logging.CRITICAL)  # math-verify logs each text that it cannot read
    import math_verify  # noqa: F401  (its second is paid before the first comparison is timed)

    answers, sys.stdout = sys.stdout, sys.stderr
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(alarm_s)
        try:
            score, parsed = compare(request["extracted"], request["answer"])
        except (Exception, RecursionError):  # whatever sympy raises on odd input: it is no answer
            score, parsed = False, False
        signal.alarm(0)
        print(json.dumps({"score": float(score), "parsed": parsed}), file=answers, flush=True)


if __name__ == "__main__":
    main()
