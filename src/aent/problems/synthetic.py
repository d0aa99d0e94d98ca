r"""Procedurally generated problems with worked solutions, over words and numbers.

Two families, three tiers (1-2, 3-4, 5-6 steps):

- `story`, a running count: `kona has 19 tizo . first gains 3 . second gives 2 . how many ?`
- `chain`, modular arithmetic: `start with 7 modulo 13 . first add 5 . what remains ?`

Both are solved one step at a time: `begin 19 first +3 22 second -2 20 so \boxed{ 20 }`. Names,
nouns and verbs vary in the problem; two words of the solution have synonyms that reward does not
care about, which leaves a policy some entropy that training need not remove.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass

from aent.config import SyntheticProblems
from aent.config.data import Family, Split, Tier
from aent.problems.record import Problem, ProblemError

NUMBERS = 1000
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
OPENINGS = ("begin", "initially")
CLOSINGS = ("so", "thus")
BOX, CLOSE = r"\boxed{", "}"

_STEPS: dict[Tier, tuple[int, int]] = {1: (1, 2), 2: (3, 4), 3: (5, 6)}
_AMOUNTS = range(1, 7)
_FACTORS = (2, 3)
_SCALING = 0.2
_LARGEST_START = 29
_LARGEST = 99
_MODULI = (9, 11, 13)
# Draws without a new problem after which a space counts as exhausted: with 1% of it left, the
# probability to stop too early is 0.99**2000 = 2e-9.
_PATIENCE = 2000

_NAMES = tuple(
    "".join(p)
    for p in itertools.product(
        ("ko", "ma", "ri", "su", "te", "lo", "ni", "ba", "du", "fe"),
        ("na", "ra", "la", "mi", "di", "vo", "shi", "ken", "lan", "ris"),
    )
)
_NOUNS = tuple(
    "".join(p)
    for p in itertools.product(
        ("ti", "pa", "gu", "vo", "ze", "hi", "qua", "bro", "cle", "sno"),
        ("zo", "pu", "bit", "dle", "mop", "wig", "fin", "rop", "tus", "gel"),
    )
)
_STORY_VERBS = {
    "+": ("gains", "finds", "gets", "wins"),
    "-": ("gives", "loses", "drops", "sells"),
    "x": ("multiplies",),
}
_CHAIN_VERBS = {"+": ("add", "plus"), "-": ("subtract", "minus"), "x": ("times",)}
_HAS = ("has", "owns", "holds", "keeps")
_HOW_MANY = ("how many ?", "how many remain ?", "count them !")
_START = ("start", "take", "go")
_WHAT = ("what remains ?", "give the residue !")


@dataclass(frozen=True)
class _Core:
    """What makes two problems the same, whatever the words: family, modulus, start, steps."""

    family: Family
    modulus: int | None
    start: int
    steps: tuple[str, ...]
    """Signed amounts such as `+3`, `-2`, `x3`."""

    @property
    def digest(self) -> str:
        text = f"{self.family} {self.modulus} {self.start} {' '.join(self.steps)}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def split(self) -> Split:
        """A tenth of all problems are for the test, a tenth for validation."""
        bucket = int(self.digest, 16) % 10
        return "test" if bucket == 0 else "validation" if bucket == 1 else "train"

    @property
    def values(self) -> list[int]:
        """The running value: at the start and after each step."""
        values = [self.start]
        for step in self.steps:
            values.append(_apply(step, values[-1], self.modulus))
        return values


def generate(config: SyntheticProblems) -> list[Problem]:
    """Distinct problems, in equal shares of the families and tiers, in random order.

    The split of a problem is decided by a hash of what makes it distinct, so that problems of
    different splits never coincide, whatever their seeds. The same configuration gives the same
    problems.

    Raises:
        ProblemError: fewer than `count` distinct problems exist.
    """
    rng = random.Random(f"{config.split} {config.seed}")
    cells = [(family, tier) for tier in config.tiers for family in config.families]
    problems = []
    for n, (family, tier) in enumerate(cells):
        share = config.count // len(cells) + (n < config.count % len(cells))
        problems += _cell(rng, config.split, family, tier, share)
    rng.shuffle(problems)
    return problems


def _cell(
    rng: random.Random, split: Split, family: Family, tier: Tier, share: int
) -> list[Problem]:
    """`share` distinct problems of a family and tier."""
    cores: dict[str, _Core] = {}
    misses = 0
    while len(cores) < share:
        core = _draw(rng, family, tier)
        if core.split != split or core.digest in cores:
            # A draw for another split says nothing about how much is left of this one.
            misses += core.split == split
            if misses > _PATIENCE:
                raise ProblemError(
                    f"problems.count: {share} distinct problems of family {family}, tier {tier}, "
                    f"split {split} are asked for, about {len(cores)} exist; "
                    "lower count, or add families or tiers"
                )
            continue
        misses = 0
        cores[core.digest] = core
    return [_problem(rng, core, tier) for core in cores.values()]


def _draw(rng: random.Random, family: Family, tier: Tier) -> _Core:
    modulus = rng.choice(_MODULI) if family == "chain" else None
    start = value = rng.randrange(modulus) if modulus else rng.randint(0, _LARGEST_START)
    steps: list[str] = []
    count = rng.randint(*_STEPS[tier])
    while len(steps) < count:
        if rng.random() < _SCALING:
            step = f"x{rng.choice(_FACTORS)}"
        else:
            step = f"{rng.choice('+-')}{rng.choice(_AMOUNTS)}"
        after = _apply(step, value, modulus)
        if 0 <= after <= _LARGEST:
            steps.append(step)
            value = after
    return _Core(family, modulus, start, tuple(steps))


def _apply(step: str, value: int, modulus: int | None) -> int:
    amount = int(step[1:])
    result = {"+": value + amount, "-": value - amount, "x": value * amount}[step[0]]
    return result % modulus if modulus else result


def _problem(rng: random.Random, core: _Core, tier: Tier) -> Problem:
    verbs = _CHAIN_VERBS if core.modulus else _STORY_VERBS
    if core.modulus:
        words = [rng.choice(_START), "with", str(core.start), "modulo", str(core.modulus)]
        question = rng.choice(_WHAT)
    else:
        words = [rng.choice(_NAMES), rng.choice(_HAS), str(core.start), rng.choice(_NOUNS)]
        question = rng.choice(_HOW_MANY)
    for ordinal, step in zip(ORDINALS, core.steps, strict=False):
        words += [".", ordinal, rng.choice(verbs[step[0]]), step[1:]]
    words += [".", question]
    values = core.values
    solution = [rng.choice(OPENINGS), str(core.start)]
    for ordinal, step, value in zip(ORDINALS, core.steps, values[1:], strict=False):
        solution += [ordinal, step, str(value)]
    solution += [rng.choice(CLOSINGS), BOX, str(values[-1]), CLOSE]
    return Problem(
        id=f"{core.family}-{tier}-{core.digest}",
        problem=" ".join(words),
        answer=str(values[-1]),
        solution=" ".join(solution),
        level=tier,
    )


def partial_solutions(solution: str) -> list[str]:
    r"""A worked solution cut after 0, 1, ... of its steps, boxing the running value.

    `begin 19 first +3 22 second -2 20 so \boxed{ 20 }` gives `begin 19 so \boxed{ 19 }` and
    `begin 19 first +3 22 so \boxed{ 22 }`.

    Raises:
        ProblemError: the solution is not one of `generate`.
    """
    opening, steps, ending = _parts(solution)
    values = [opening[-1], *(step[-1] for step in steps)]
    return [
        " ".join([*opening, *itertools.chain(*steps[:kept]), ending[0], BOX, values[kept], CLOSE])
        for kept in range(len(steps))
    ]


def direct_solution(solution: str) -> str:
    r"""The answer without any working: `so \boxed{ 20 }`.

    Raises:
        ProblemError: the solution is not one of `generate`.
    """
    return " ".join(_parts(solution)[2])


def _parts(solution: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Opening [word, start], steps [ordinal, amount, value] each, ending [word, box, value, }]."""
    words = solution.split()
    opening, middle, ending = words[:2], words[2:-4], words[-4:]
    steps = [middle[i : i + 3] for i in range(0, len(middle), 3)]
    shaped = len(words) >= 9 and ending[1::2] == [BOX, CLOSE] and len(middle) % 3 == 0
    if not shaped or any(step[0] not in ORDINALS for step in steps):
        raise ProblemError(f"not a solution of a synthetic problem: {solution!r:.200}")
    return opening, steps, ending


def first_words() -> list[str]:
    """The words that problems begin with; they stand nowhere else."""
    return [*_NAMES, *_START]


def vocabulary() -> list[str]:
    """All other words of problems and solutions, without repeats: numbers first."""
    numbers = [str(n) for n in range(NUMBERS)]
    signed = [f"{sign}{n}" for sign in "+-" for n in _AMOUNTS] + [f"x{n}" for n in _FACTORS]
    verbs = itertools.chain(*_STORY_VERBS.values(), *_CHAIN_VERBS.values())
    phrases = itertools.chain(*(text.split() for text in (*_HOW_MANY, *_WHAT)))
    words = (*ORDINALS, *OPENINGS, *CLOSINGS, BOX, CLOSE, ".", *_HAS, "with", "modulo")
    return list(dict.fromkeys([*numbers, *signed, *words, *verbs, *phrases, *_NOUNS]))
