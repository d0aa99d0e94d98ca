"""Rewards: does the boxed answer of a completion equal the right one?

math-verify decides. It calls sympy, which can run for ever on a short text, and its own time limit
uses signals that do nothing outside a main thread. So it runs in worker processes, which die of
what is over the limit and are replaced. The limit is CPU time, which the kernel watches: a
verdict must not depend on how busy the machine is. Most answers need no sympy: equal texts and
plain integers are settled here, and what math-verify was asked once is remembered.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from types import TracebackType

from aent.boxed import last_boxed

log = logging.getLogger(__name__)

LONGEST = 2000
"""Characters of an answer that are worth parsing; a longer one is wrong."""
REMEMBERED = 100_000
START_S = 120.0
"""A worker that has not imported math-verify by then will not."""
PATIENCE, PATIENCE_S = 10.0, 60.0
"""Wall time that a comparison gets: a multiple of its CPU time, and a constant.

Generous, because it must not decide on a busy machine; it ends a worker that waits for ever."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}")
# White space, spacing and sizing commands, and dollar signs, but no escaped dollar.
_INVISIBLE = re.compile(r"(?:\\(?:left|right)(?![a-zA-Z])|\\[!,;:]|(?<!\\)\$|\s)+")


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of a completion."""

    score: float
    """1 for a right answer, else 0."""
    parsed: bool
    """There was a boxed answer that could be read."""
    timed_out: bool
    """The comparison was over its limit, or its process died of it."""
    extracted: str | None
    """Content of the last box."""


_Outcome = tuple[float, bool, bool]  # score, parsed, timed out


class VerifierError(RuntimeError):
    """The worker processes do not start."""


class Verifier:
    """Scores completions; a context manager. Workers start when first needed."""

    def __init__(self, workers: int = 1, timeout_s: float = 5.0):
        """Set limits.

        Args:
            workers: processes that compare in parallel.
            timeout_s: hard limit of one comparison, in seconds of CPU time; wall time is limited
                too, generously.
        """
        if workers < 1 or not 0 < timeout_s < math.inf:
            raise ValueError(f"workers {workers} and timeout_s {timeout_s} must be positive")
        self.timeout_s = timeout_s
        self._workers: list[_Worker | None] = [None] * workers
        self._memory: OrderedDict[tuple[str, str], tuple[float, bool, bool]] = OrderedDict()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def score(self, completions: list[str], answers: list[str]) -> list[Verdict]:
        """Score completions against their right answers, in order.

        The last box counts. A completion without one, or one that cannot be read, scores 0.

        Raises:
            ValueError: the lists differ in length.
            VerifierError: the worker processes do not start.
        """
        if len(completions) != len(answers):
            raise ValueError(f"{len(completions)} completions, but {len(answers)} answers")
        extracted = [last_boxed(completion) for completion in completions]
        known: dict[tuple[str, str], _Outcome] = {}
        unknown = []
        pairs = [(e, a) for e, a in zip(extracted, answers, strict=True) if e is not None]
        for pair in dict.fromkeys(pairs):
            if (settled := settle(*pair)) is not None:
                known[pair] = (*settled, False)
            elif pair in self._memory:
                self._memory.move_to_end(pair)
                known[pair] = self._memory[pair]
            else:
                unknown.append(pair)
        try:
            self._compare(unknown, known)
        except BaseException:  # an interrupt: a worker's late answer must not meet another question
            self.close()
            raise
        self._memory.update((pair, known[pair]) for pair in unknown)
        while len(self._memory) > REMEMBERED:
            self._memory.popitem(last=False)
        return [
            Verdict(0.0, False, False, None) if e is None else Verdict(*known[e, a], e)
            for e, a in zip(extracted, answers, strict=True)
        ]

    def sound(self, answers: list[str]) -> list[bool]:
        """Whether math-verify can read each answer and finds it equal to itself, in order.

        `score` takes equal texts for equal answers without asking it; this asks, all but the plain
        integers, of which it is known.

        Raises:
            VerifierError: the worker processes do not start.
        """
        known: dict[tuple[str, str], _Outcome] = {}
        unknown = []
        for answer in dict.fromkeys(answers):
            if len(answer) > LONGEST or _INTEGER.fullmatch(answer):
                known[answer, answer] = (float(len(answer) <= LONGEST), True, False)
            else:
                unknown.append((answer, answer))
        try:
            self._compare(unknown, known)
        except BaseException:  # as in `score`
            self.close()
            raise
        return [known[answer, answer][:2] == (1.0, True) for answer in answers]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            if worker is not None:
                worker.kill()
        self._workers = [None] * len(self._workers)

    def _compare(
        self, pairs: list[tuple[str, str]], known: dict[tuple[str, str], _Outcome]
    ) -> None:
        """Add the outcomes of pairs that only math-verify can settle."""
        waiting = deque(pairs)
        died: set[tuple[str, str]] = set()
        busy: dict[int, _Worker] = {}
        for place in range(len(self._workers)):
            self._give(place, waiting, busy)
        while busy:
            patience = min(worker.deadline for worker in busy.values()) - time.monotonic()
            ready, _, _ = select.select(list(busy.values()), [], [], max(0.0, patience))
            for place, worker in list(busy.items()):
                over = time.monotonic() >= worker.deadline
                if worker not in ready and not over:
                    continue
                del busy[place]
                reply = None
                try:
                    if worker in ready:
                        reply = worker.reply()
                except EOFError:
                    over = True
                    if worker.pair not in died:  # its fault, or that of a full machine: once more
                        died.add(worker.pair)
                        waiting.appendleft(worker.pair)
                if reply is not None:
                    known[worker.pair] = (reply["score"], bool(reply["parsed"]), False)
                else:
                    log.warning("no verdict within %g s: %.80r", self.timeout_s, worker.pair)
                    known[worker.pair] = (0.0, False, True)
                if over:
                    worker.kill()
                    self._workers[place] = None
                self._give(place, waiting, busy)

    def _give(self, place: int, waiting: deque[tuple[str, str]], busy: dict[int, _Worker]) -> None:
        if not waiting:
            return
        pair = waiting.popleft()
        worker = self._workers[place]
        if worker is None:
            worker = self._workers[place] = _Worker(self.timeout_s)
        worker.ask(pair)
        busy[place] = worker


class _Worker:
    """One `aent.verify_worker` process."""

    def __init__(self, timeout_s: float):
        self.timeout_s = timeout_s
        self.pair = ("", "")
        self.deadline = math.inf
        # A fresh interpreter, not a fork: the parent may hold torch's threads, and its main module
        # may be a workflow script that must not run again.
        self.process = subprocess.Popen(
            # -P: no module of the working directory may stand in for one of ours.
            [sys.executable, "-P", "-m", "aent.verify_worker", str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            process_group=0,  # it forks; all of it is killed together
        )
        try:
            if not select.select([self], [], [], START_S)[0]:
                raise EOFError
            self.reply()
        except EOFError:
            self.kill()
            raise VerifierError(f"{sys.executable} -m aent.verify_worker does not start") from None

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def ask(self, pair: tuple[str, str]) -> None:
        assert self.process.stdin is not None
        self.pair, self.deadline = pair, time.monotonic() + PATIENCE * self.timeout_s + PATIENCE_S
        request = json.dumps({"extracted": pair[0], "answer": pair[1]}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # it died in between; reply() then says so
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()

    def reply(self) -> dict[str, float | bool] | None:
        """The answer that is ready to be read; None when the comparison was over its limit.

        Raises:
            EOFError: the process has died.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return json.loads(line)  # type: ignore[no-any-return]

    def kill(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # what is still buffered has no reader any more
            self.process.stdin.close()


def settle(extracted: str, answer: str) -> tuple[float, bool] | None:
    """Score and parsed, where no algebra is needed; None where it is.

    Equal texts, up to white space and sizing commands, are equal answers, also where no grammar
    reads them. Two plain integers are compared as such. Empty and very long texts are wrong.
    """
    ours, theirs = _plain(extracted[: LONGEST + 1]), _plain(answer)
    if not ours or len(extracted) > LONGEST:
        return 0.0, False
    if ours == theirs:
        return 1.0, True
    if _INTEGER.fullmatch(ours) and _INTEGER.fullmatch(theirs):
        return float(int(ours) == int(theirs)), True
    return None


def _plain(text: str) -> str:
    """Without what print does not show; but a space between digits or letters: 1 2 is not 12.

    Nor with the full stop that ends a sentence.
    """
    return _INVISIBLE.sub(_gap, text.strip()).removesuffix(".")


def _gap(match: re.Match[str]) -> str:
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return " " if before.isalnum() and after.isalnum() else ""
