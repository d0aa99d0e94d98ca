"""Numbers are read, and text is never run: by sympy's doors, and by Python's own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aent.sandbox import read_number


@pytest.mark.parametrize(
    ("text", "value"), [("12", 12), ("-3", -3), ("3/2", 1.5), ("0.25", 0.25), (".5e1", 5.0)]
)
def test_numbers_are_read(text, value):
    assert float(read_number(text)) == value


def test_whole_numbers_and_fractions_stay_exact():
    assert read_number("1" * 300) == int("1" * 300)
    assert str(read_number("1/3")) == "1/3"


@pytest.mark.parametrize(
    "text", ["", "x", "1+1", "2**9", "open('x')", "1_0", "0x1", "٣", "1e5", "nan"]
)
def test_anything_else_is_not_a_number(text):
    with pytest.raises(SyntaxError, match="not a number"):
        read_number(text)


ATTEMPTS = {
    "eval": "eval('1 + 1')",
    "exec": "exec('x = 1')",
    "compile": "compile('1', '<answer>', 'eval')",
    "a file's name": "exec(compile('1', '<string>', 'exec'))",
    "sympify": "sympy.sympify('1 + 1')",
    "parse_expr": "math_verify.parser.parse_expr_with_timeout('9**9', timeout_seconds=0)",
    "lambdify": "sympy.lambdify(x, x + sympy.Symbol('__import__(\"os\")'))",
    "system": "os.system('true')",
    "process": "subprocess.run(['true'])",
    "fork": "os.fork()",
    "socket": "socket.socket()",
    "write": "open('made', 'w')",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """What became of each attempt, in one process that has forbidden code."""
    script = (
        "import os, socket, subprocess, sympy, math_verify.parser\n"
        "from aent.sandbox import forbid_code\n"
        "x = sympy.Symbol('x')\n"
        # Compiled before the door closes; an attempt is refused for what it does.
        + "".join(f"def attempt{i}():\n    {text}\n" for i, text in enumerate(ATTEMPTS.values()))
        + "forbid_code()\n"
        f"for i in range({len(ATTEMPTS)}):\n"
        "    try:\n"
        "        globals()[f'attempt{i}']()\n"
        "        print('done')\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
    )
    folder = tmp_path_factory.mktemp("sandbox")
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert not (folder / "made").exists()
    return dict(zip(ATTEMPTS, done.stdout.split(), strict=True))


@pytest.mark.parametrize("name", ATTEMPTS)
def test_attempts_are_refused(refused, name):
    assert refused[name] in ("ForbiddenError", "SympifyError", "SyntaxError")
