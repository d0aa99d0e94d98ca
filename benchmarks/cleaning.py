"""Records a second of each filter of training problems, on files of OpenR1-Math-220k's schema.

The records are made up: problems of about 50 words, answers of the types below with numbers of
their own, so that few are equal and remembered. The shares of the types are assumed, after those of
MATH-500, AIME, AMC and OlympiadBench (integers 60%, expressions and fractions 11% each), with the
choices and words that OpenR1 has besides; one answer in 2,000 is hostile and takes the whole time
limit. A file of the real size is extrapolated: time is linear in the records.

    python benchmarks/cleaning.py                                       # 2,000 records: 15 s
    python benchmarks/cleaning.py --records 15000 --seeds 0 1 2         # 3 min
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from aent.config.data import Cleaning, FileProblems
from aent.problems.cleaning import Benchmarks, distinct, unlike, verifiable
from aent.problems.prepare import complete
from aent.problems.record import Problem
from aent.problems.source import read_source

OPENR1 = 225_129
"""Records of OpenR1-Math-220k, subset all."""
BENCHMARKS = 2_841
"""Problems of the paper's six benchmarks."""
WORDS = [f"word{n}" for n in range(3_000)]
HOSTILE = 1 / 2_000

Numbers = Callable[[int], int]
ANSWERS: list[tuple[int, Callable[[Numbers], str]]] = [
    (50, lambda n: str(n(5000))),
    (12, lambda n: "ABCDE"[n(5)]),
    (10, lambda n: f"\\frac{{{n(400)}}}{{{n(90) + 2}}}"),
    (6, lambda n: f"{n(60)}\\sqrt{{{n(90)}}} + {n(40)}"),
    (3, lambda n: f"\\frac{{{n(30)}\\pi}}{{{n(20) + 2}}}"),
    (3, lambda n: f"{n(30)}x^{{{n(9)}}} - {n(30)}x + {n(99)}"),
    (3, lambda n: f"({n(50)}, {n(50)}]"),
    (3, lambda n: f"{n(90)}, {n(90)}, {n(90)}"),
    (3, lambda n: f"x = {n(90)}, y = -{n(90)}"),
    (2, lambda n: f"{n(900) / 100}"),
    (2, lambda n: f"{n(100)}\\%"),
    (1, lambda n: f"2^{{{n(60)}}} \\leq x < 3^{{{n(20)}}}"),
    (1, lambda n: f"\\{{{n(50)}, {n(60) + 60}\\}}"),
    (1, lambda n: f"\\text{{{WORDS[n(3000)]} and {WORDS[n(3000)]}}}"),
]


def answer_of(random_numbers: random.Random) -> str:
    """An answer of one of the types, in their shares."""
    if random_numbers.random() < HOSTILE:
        return f"9^{{9^{{9^{random_numbers.randrange(2, 99)}}}}}!"
    [make] = random_numbers.choices([make for _, make in ANSWERS], [share for share, _ in ANSWERS])
    return make(random_numbers.randrange)


def text_of(random_numbers: random.Random) -> str:
    """A problem's text."""
    words = random_numbers.choices(WORDS, k=random_numbers.randrange(20, 80))
    return f"Find ${words[0]}^2 + {random_numbers.randrange(10**6)}$ where {' '.join(words)}."


def write_records(path: Path, count: int, seed: int) -> None:
    """A parquet file of the data set's schema; every fiftieth problem stands there twice."""
    numbers = random.Random(seed)
    texts = [text_of(numbers) for _ in range(count)]
    rows: list[dict[str, Any]] = [
        {
            "problem": texts[n - 1] if n % 50 == 49 else texts[n],
            "solution": "A solution. " * 40,
            "answer": answer_of(numbers),
            "source": "olympiads",
            "uuid": str(uuid.UUID(int=numbers.getrandbits(128))),
            "generations": ["<think>" + "a thought " * 400] * 2,
            "correctness_math_verify": [True, False],
        }
        for n in range(count)
    ]
    pd.DataFrame(rows).to_parquet(path)


def measure(count: int, seed: int, workers: int) -> dict[str, float]:
    """Seconds of each part for one file."""
    numbers = random.Random(-1 - seed)
    exams = {"exams": [Problem(str(n), text_of(numbers), "1") for n in range(BENCHMARKS)]}
    config = FileProblems.model_validate(
        {
            "kind": "file",
            "path": "records.parquet",
            "columns": {"problem": "problem", "answer": "answer", "id": "uuid"},
            "cleaning": {},
        }
    )
    times, defaults = {}, Cleaning()

    def timed(name: str, part: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = part()
        times[name] = time.perf_counter() - start
        return found

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.parquet"
        write_records(path, count, seed)
        config = config.model_copy(update={"path": path})
        problems, _ = timed("read", lambda: complete(read_source(config), config))
    kept = timed("answer verifies", lambda: verifiable(problems, defaults.timeout_s, workers))
    once = timed("not a repeat", lambda: distinct(kept))
    index = timed("index the benchmarks", lambda: Benchmarks(exams, defaults.ngram))
    left, _ = timed("not in a benchmark", lambda: unlike(once, index))
    print(f"seed {seed}: {count} records, {len(kept)} verify, {len(once)} once, {len(left)} left")
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    runs = [measure(options.records, seed, options.workers) for seed in options.seeds]
    print(f"{'part':22} {'records/s':>10}  {OPENR1} records, {options.workers} worker(s)")
    total = 0.0
    for part in runs[0]:
        rates = [options.records / times[part] for times in runs]
        whole = statistics.fmean(run[part] for run in runs)
        if part != "index the benchmarks":
            whole *= OPENR1 / options.records
        total += whole
        print(f"{part:22} {statistics.fmean(rates):10.0f}  {whole / 60:.1f} min")
    print(f"{'all':22} {OPENR1 / total:10.0f}  {total / 60:.1f} min")


if __name__ == "__main__":
    main()
