r"""Completions that no verifier should meet, by family.

Each is (text, right answer, score): 1.0 or 0.0, or None where the text is right and no verifier
can be asked to find out within its limit. Most families are written down as a pattern and a range;
`MARK` in a text stands for a path that it tries to create.

    python tests/faults/hostile.py /tmp/mark 2 0.3      scores them all; prints JSON

With the folder `refusals` on PYTHONPATH, what the sandbox refused stands on standard error.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from aent import rewards
from aent.rewards import Verifier

Case = tuple[str, str, float | None]

MARK = "@MARK@"


def boxed(*contents: str) -> str:
    return " so ".join(rf"\boxed{{{content}}}" for content in contents)


def towers() -> Iterator[Case]:
    """Powers of powers: seconds, years, or more digits than there are atoms."""
    for base in (2, 3, 7, 9, 10, 99):
        for height in (3, 4, 6, 12, 40):
            tower = "^{".join([str(base)] * height) + "}" * (height - 1)
            yield boxed(tower), "3", 0.0
    for exponent in (2**20, 2**34, 10**12, 10**100):
        yield boxed(f"2^{{{exponent}}}"), "3", 0.0
        yield boxed(f"0.5^{{-{exponent}}}"), "3", 0.0
        yield boxed(rf"\sqrt[{exponent}]{{2}}"), "3", 0.0
        yield boxed(f"1^{{{exponent}}}"), "1", 1.0
    yield boxed(r"2^{2^{2}}"), "16", 1.0
    yield boxed(r"10^{10^{1}}"), "10000000000", 1.0
    yield boxed(r"(-1)^{10^{3}}"), "1", 1.0


def factorials() -> Iterator[Case]:
    for n in (10**4, 10**6, 10**9, 10**12):
        yield boxed(f"{n}!"), "3", 0.0
        yield boxed(f"({n}!)!"), "3", 0.0
        yield boxed(rf"\frac{{{n}!}}{{{n - 1}!}}"), str(n), 1.0 if n == 10**4 else None
        yield boxed(rf"\binom{{{2 * n}}}{{{n}}}"), "3", 0.0
    for marks in (2, 10, 100, 1000):
        yield boxed("9" + "!" * marks), "3", 0.0
    yield boxed("5!"), "120", 1.0
    yield boxed(r"\binom{10}{5}"), "252", 1.0
    yield boxed(r"\frac{6!}{5!}"), "6", 1.0


def sums_and_integrals() -> Iterator[Case]:
    for top in (r"10^{9}", r"10^{100}", r"\infty", r"9^{9^{9}}"):
        yield boxed(rf"\sum_{{k=1}}^{{{top}}} \frac{{1}}{{k!}}"), "3", 0.0
        yield boxed(rf"\prod_{{k=1}}^{{{top}}} (1+\frac{{1}}{{k^3}})"), "3", 0.0
        yield boxed(rf"\sum_{{i=1}}^{{{top}}}\sum_{{j=1}}^{{i}} \sin(ij)"), "3", 0.0
        yield boxed(rf"\int_0^{{{top}}} e^{{-x^2}}\sin(x^3) dx"), "3", 0.0
        yield boxed(rf"\int_0^{{{top}}} \frac{{\ln(1+x)\tan x}}{{1+x^5}} dx"), "3", 0.0
    for depth in (3, 10, 30):
        yield boxed(r"\int_0^1 " * depth + r"e^{xyz} " + "dx " * depth), "3", 0.0
        yield boxed(r"\sum_{k=1}^{100} " * depth + "k"), "3", 0.0
        yield boxed(r"\lim_{x \to 0} " * depth + r"\frac{\sin x}{x}"), "3", 0.0
        yield boxed(r"\frac{d}{dx} " * depth + r"\tan(x^x)"), "3", 0.0
    yield boxed(r"\sum_{k=1}^{10} k"), "55", 1.0
    yield boxed(r"\int_0^1 2x dx"), "1", 1.0


def braces() -> Iterator[Case]:
    """Unbalanced, and deeper than any recursion."""
    for opening, closing in (("{", "}"), ("(", ")"), ("[", "]"), (r"\left(", r"\right)")):
        for depth in (50, 300, 10_000):
            yield boxed(opening * depth + "20" + closing * depth), "3", 0.0
            if opening != "{":  # with braces, the box never closes
                yield boxed(opening * depth + "20"), "3", 0.0
                yield boxed("20" + closing * depth), "3", 0.0
    for text in ("{" * 10_000, "}" * 10_000, "{}" * 10_000, "}{" * 10_000, r"\boxed{" * 10_000):
        yield text, "20", 0.0
        yield r"\boxed{" + text, "20", 0.0
        yield text + boxed("20"), "20", 1.0
    for command in (r"\frac", r"\sqrt", r"\text", r"\overline", "^", "_"):
        for depth in (20, 200, 10_000):
            yield boxed((command + "{") * depth + "1" + "}" * depth), "3", 0.0
    yield r"\boxed{20", "20", 0.0
    yield r"\boxed 20}", "20", 0.0
    yield r"\boxed{\{20\}}", r"\{20\}", 1.0
    yield r"\boxed{{20}}", "20", 1.0


def long_texts() -> Iterator[Case]:
    for part in (r"\frac", r"\frac{1}", r"\frac{1}{2}", "9", "x+", "1,", " ", "\\", "$", "-", "%"):
        yield boxed(part * (1_000_000 // len(part))), "3", 0.0
        yield boxed(part * (1_900 // len(part))), "3", 0.0
        yield part * (1_000_000 // len(part)) + boxed("20"), "20", 1.0
    yield boxed("20") * 20_000, "20", 1.0
    yield boxed("20" + " " * 1_900), "20", 1.0


def odd_characters() -> Iterator[Case]:
    odd = {
        "NUL": "\x00",
        "escape": "\x1b[2J",
        "lone high surrogate": "\ud800",
        "lone low surrogate": "\udfff",
        "right-to-left override": "\u202e",
        "right-to-left mark": "\u200f",
        "zero width joiner": "\u200d",
        "byte order mark": "\ufeff",
        "not a character": "\uffff",
        "emoji": "\U0001f469\u200d\U0001f680",
        "stacked marks": "a" + "\u0300" * 500,
        "line separator": "\u2028",
        "newline": "\n",
        "carriage return": "\r\n",
    }
    for text in odd.values():
        yield boxed(f"2{text}1"), "20", 0.0
        yield boxed(text), "20", 0.0
        yield text + boxed("20") + text, "20", 1.0
        yield boxed(rf"\frac{{4{text}}}{{2}}"), "3", 0.0
    yield boxed("02\u202e"), "20", 0.0  # prints as 20
    # LaTeX, and so an answer, has ASCII digits only.
    yield boxed("\u0662\u0660"), "20", 0.0  # Arabic-Indic digits
    yield boxed("２０"), "20", 0.0  # full-width digits
    yield boxed("\u00b2"), "2", 0.0  # a superscript


def contradictions() -> Iterator[Case]:
    """The last box counts, as a whole."""
    yield boxed("19", "20"), "20", 1.0
    yield boxed("20", "19"), "20", 0.0
    yield boxed(*map(str, range(1, 200))), "20", 0.0
    yield boxed(*map(str, range(1, 200))), "199", 1.0
    yield boxed("20", ""), "20", 0.0
    yield boxed("20") + r"\boxed{", "20", 0.0
    yield r"\boxed{19 \boxed{20}}", "20", 1.0
    yield r"\boxed{20 \boxed{19}}", "20", 0.0
    for joint in (" or ", " and ", ", ", "; ", r" \vee ", " ", r" \neq ", " < ", r"\cup", "/"):
        yield boxed(f"19{joint}20"), "20", 0.0
        yield boxed(f"20{joint}19"), "20", 0.0
        yield boxed(",".join(map(str, range(100))) + joint + "20"), "20", 0.0
    for wrapped in (
        "]] 20",
        r"\foo{} 20 \bar",
        "?? 20 ??",
        "19 }{ 20",
        "answer: 20 (not 19)",
        "#20",
    ):
        yield boxed(wrapped), "20", 0.0
    yield boxed(r"\pm 20"), "20", 0.0
    yield boxed("x"), "20", 0.0
    yield boxed(r"\infty"), "20", 0.0
    yield boxed(r"\text{NaN}"), "20", 0.0
    yield boxed("nan"), "20", 0.0
    yield boxed("inf"), "20", 0.0
    yield boxed(r"\frac{0}{0}"), "20", 0.0
    yield boxed(r"\frac{20}{0}"), "20", 0.0
    yield boxed("0^0"), "20", 0.0


def units() -> Iterator[Case]:
    for unit in (r"\text{ cm}", r"\text{ dollars}", r"^\circ", r"\text{ cm}^2", r"\,\text{m}"):
        yield boxed("20" + unit), "20", 1.0
        yield boxed("21" + unit), "20", 0.0
    yield boxed(r"\$20"), "20", 1.0
    yield boxed(r"20\%"), "0.2", 1.0
    yield boxed(r"20\%"), r"\frac{1}{5}", 1.0
    yield boxed("20."), "20", 1.0
    yield boxed("1,000,000"), "1000000", 1.0
    yield boxed("x = 20"), "20", 1.0
    yield boxed("020"), "20", 1.0
    yield boxed("+20"), "20", 1.0
    yield boxed("20.000"), "20", 1.0
    yield boxed(r"\frac{40}{2}"), "20", 1.0
    yield boxed(r"\sqrt{400}"), "20", 1.0
    yield boxed(r"2 \times 10^1"), "20", 1.0
    yield boxed(r"20\text{ m}^2/\text{s}^2"), "20", 1.0
    yield boxed(r"20\text{ or }21"), r"20\text{ or }21", 1.0
    # Text behind a number is its unit, unless it holds another number.
    for both in (
        r"20\text{ apples and }21\text{ pears}",
        r"20\text{ or 21}",
        r"20\mbox{ }21\mbox{ }",
    ):
        yield boxed(both), "20", 0.0
        yield boxed(both), "21", 0.0


def code() -> Iterator[Case]:
    """Python, shell, sympy, LaTeX and formats that run what they hold."""
    python = [
        f"__import__('os').system('touch {MARK}')",
        f"open('{MARK}','w')",
        f'eval(\'open("{MARK}","w")\')',
        f"exec(\"import os; os.mkdir('{MARK}')\")",
        f"lambda: open('{MARK}','w')",
        f"().__class__.__base__.__subclasses__()[0]('{MARK}')",
        f"[x for x in [open('{MARK}','a')]]",
        f"print(open('{MARK}','w'))",
        f'sympify(\'open("{MARK}","w")\')',
        f'parse_expr(\'open("{MARK}","w")\')',
        f"lambdify([], open('{MARK}','w'))()",
        f'f\'{{open("{MARK}","w")}}\'',
        f"Symbol('x').__init__.__globals__['open']('{MARK}','w')",
        f"preview(1, viewer='file', filename='{MARK}')",
        f"subprocess.run(['touch','{MARK}'])",
        f"1 if open('{MARK}','w') else 2",
        "exit()",
        "quit(0)",
        "raise SystemExit",
        "while True: pass",
        "(lambda f: f(f))(lambda f: f(f))",
        "9**9**9**9",
        "'a'*10**12",
        "list(range(10**12))",
        "import os",
    ]
    shell = [
        f"$(touch {MARK})",
        f"`touch {MARK}`",
        f"; touch {MARK} ;",
        f"| tee {MARK}",
        f"&& touch {MARK}",
        f"> {MARK}",
        f"'; touch {MARK}; '",
        ":(){ :|:& };:",
        "rm -rf / --no-preserve-root",
    ]
    markup = [
        rf"\immediate\write18{{touch {MARK}}}",
        rf"\input{{|touch {MARK}}}",
        rf"\newwrite\f\immediate\openout\f={MARK}",
        r"\def\a{\a\a}\a",
        f"!!python/object/apply:os.system ['touch {MARK}']",
        f"{{{{ open('{MARK}','w') }}}}",
        f"cos\nsystem\n(S'touch {MARK}'\ntR.",
        '{"extracted": "20", "answer": "20"}',
        "20\n{}\n",
        "%s%n%x",
        "<script>alert(1)</script>",
        "' OR 1=1 --",
    ]
    for text in python + shell + markup:
        yield boxed(text), "20", 0.0
        yield boxed(rf"\text{{{text}}}"), "20", 0.0
        yield text + boxed("20"), "20", 1.0
    for digits in ("9**9", "2**-1", "0x14", "0b10100", "2_0", "20j", "1e400", "1e-400", "20L"):
        yield boxed(digits), "20", 0.0


FAMILIES = (
    towers,
    factorials,
    sums_and_integrals,
    braces,
    long_texts,
    odd_characters,
    contradictions,
    units,
    code,
)


class Watched(rewards._Worker):
    """A worker of whose comparisons it is known what they took."""

    cpu_s: ClassVar[dict[tuple[str, str], float]] = {}
    """Most CPU time of a comparison of the two texts, in seconds."""
    memory: ClassVar[int] = 0
    """Most memory of a process that compared, in bytes."""
    asked_at: float | None = None

    def ask(self, pair: tuple[str, str]) -> None:
        self.asked_at = cpu_time(self.process.pid)
        super().ask(pair)

    def reply(self) -> Any:
        try:
            return super().reply()
        finally:
            self.look()

    def kill(self) -> None:
        self.look()  # before nobody can
        super().kill()

    def look(self) -> None:
        """Note what is known now."""
        Watched.memory = max([Watched.memory, *map(most_memory, forks(self.process.pid))])
        if self.asked_at is not None:
            took = cpu_time(self.process.pid) - self.asked_at
            Watched.cpu_s[self.pair] = max(took, Watched.cpu_s.get(self.pair, 0.0))
        self.asked_at = None


def forks(pid: int) -> list[int]:
    """Ids of a process's children."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []


def most_memory(pid: int) -> int:
    """Most memory, in bytes, that a process has had until now."""
    found = re.search(r"VmHWM:\s+(\d+) kB", read(f"/proc/{pid}/status"))
    return 1024 * int(found[1]) if found else 0


def cpu_time(pid: int) -> float:
    """CPU seconds of a process's children, living and dead."""

    def ticks(pid: int, user: int) -> int:
        fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return sum(map(int, fields[user : user + 2]))

    living = sum(ticks(fork, 11) for fork in forks(pid))
    return (ticks(pid, 13) + living) / os.sysconf("SC_CLK_TCK")


def read(file: str) -> str:
    """What a file of /proc says; nothing when its process has ended."""
    try:
        return Path(file).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def score_all(mark: str, workers: int, timeout_s: float) -> dict[str, Any]:
    """Score every case with its family's others; what the test looks at.

    Returns:
        For each family a list of (text's start, wanted score, score, timed out, CPU time of the
        comparison: 0 where none was needed); the most memory that a worker's process and that this
        one needed, in bytes.
    """
    families = {}
    rewards._Worker = Watched  # type: ignore[misc]
    with Verifier(workers=workers, timeout_s=timeout_s) as verifier:
        for family in FAMILIES:
            texts, answers, wanted = zip(*family(), strict=True)
            verdicts = verifier.score([text.replace(MARK, mark) for text in texts], list(answers))
            families[family.__name__] = [
                (text[:100], score, v.score, v.timed_out, Watched.cpu_s.get((v.extracted, a), 0.0))
                for text, score, v, a in zip(texts, wanted, verdicts, answers, strict=True)
            ]
    return {
        "families": families,
        # Of those that somebody has waited for, too: who went over a limit.
        "memory": max(
            Watched.memory, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        ),
        # Not of getrusage: that would tell of the process that started this one, too.
        "own_memory": most_memory(os.getpid()),
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(score_all(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
