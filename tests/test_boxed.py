import time

import pytest

from aent.boxed import last_boxed, written_answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r" so \boxed{ 20 }", "20"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{a \boxed{b}}", "b"),
        (r"\boxed {7}", "7"),
        (r"\boxed{}", ""),
        (r"\boxed{\left\{1, 2\right.}", r"\left\{1, 2\right."),
        (r"\boxed{x\\}", r"x\\"),
        ("\\boxed{\n3\n}", "3"),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed 5", None),
        ("no box", None),
        ("", None),
    ],
)
def test_content_of_the_last_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize("unit", [r"\boxed{", "{", "}", "\\", r"\boxed ", "a"])
def test_time_is_linear_in_the_length(unit: str) -> None:
    """A quadratic scan of a megabyte would take minutes."""
    start = time.perf_counter()
    last_boxed(r"\boxed{" + unit * 200_000)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"so $\boxed 5$.", "5"),
        (r"so \boxed 7, then \boxed 12.", "12"),
        (r"\fbox{3}", "3"),
        (r"\fbox{3} but \boxed{4}", "4"),
        ("no box", None),
    ],
)
def test_answers_of_people_s_solutions(text: str, answer: str | None) -> None:
    assert written_answer(text) == answer
