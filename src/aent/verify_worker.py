"""A process that compares answers with math-verify; it may hang or die, and nothing is lost.

Reads a JSON line {extracted, answer} at a time from standard input and answers {score, parsed}.
It imports no torch and holds itself to limits that the kernel enforces: of memory, and of CPU time
a comparison, over which it dies wherever it is, also when its parent is long gone. Texts are parsed
by a grammar, never evaluated as code.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys

MEMORY = 1 << 30  # bytes of address space; an ordinary comparison is content with a tenth


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
    logging.disable(logging.CRITICAL)  # math-verify logs each text that it cannot read
    answers, sys.stdout = sys.stdout, sys.stderr
    # Imports and parsers are loaded by use; that second is paid before a comparison is timed.
    for example in ("(\\frac{1}{2}, x^2]", "1e3"):
        compare(example, "0.5")
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # CPU time; the signal ends the process
        try:
            score, parsed = compare(request["extracted"], request["answer"])
        except Exception:  # whatever sympy raises on odd input: it is no answer
            score, parsed = False, False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"score": float(score), "parsed": parsed}), file=answers, flush=True)


if __name__ == "__main__":
    main()
