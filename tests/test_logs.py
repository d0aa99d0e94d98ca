"""Scripts' logging, in processes of their own as rules run them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from aent.logs import HIDDEN

START = "import logging, os, threading, warnings\nfrom aent.logs import configure_logging\n"
TOKEN = "planted-token-5f1d"


def run(code: str, log) -> tuple[int, str, str]:
    """Exit status, terminal and log file of a script that logs to `log`."""
    script = f"{START}configure_logging({str(log)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr, log.read_text()


def test_records_and_warnings_reach_both(tmp_path):
    status, terminal, file = run(
        "logging.getLogger('aent.x').info('step 1 of 2')\nwarnings.warn('careful')\n",
        tmp_path / "logs" / "rule.log",
    )
    assert status == 0
    for text in (terminal, file):
        assert "step 1 of 2" in text
        assert "careful" in text


def test_uncaught_error_is_in_the_log_with_its_traceback(tmp_path):
    status, terminal, file = run("raise ValueError('no such thing')\n", tmp_path / "rule.log")
    assert status == 1
    for text in (terminal, file):
        assert "Traceback" in text
        assert "ValueError: no such thing" in text


def test_error_in_a_thread_is_in_the_log(tmp_path):
    code = "t = threading.Thread(target=lambda: 1 / 0, name='worker')\nt.start()\nt.join()\n"
    _, _, file = run(code, tmp_path / "rule.log")
    assert "worker ends with an error" in file
    assert "ZeroDivisionError" in file


SECRET = "os.environ['HF_TOKEN']"
SAID = {
    "a message": f"logging.info('sent %s', {SECRET})",
    "a warning": f"warnings.warn({SECRET})",
    "a library's message": f"logging.getLogger('mlflow').error({SECRET})",
    "a traceback": f"raise ValueError({SECRET})",
    "a traceback's cause": f"try: open({SECRET})\nexcept OSError as e: raise ValueError from e",
    "a traceback in a message": f"try: open({SECRET})\nexcept OSError: logging.exception('no')",
    "an error of a thread": f"threading.Thread(target=lambda: open({SECRET})).start()",
    "a thread's name": f"threading.Thread(target=lambda: 1 / 0, name={SECRET}).start()",
}


@pytest.mark.parametrize("code", SAID.values(), ids=list(SAID))
def test_a_secret_of_the_environment_is_hidden(tmp_path, code):
    _, terminal, file = run(code, tmp_path / "rule.log")
    for text in (terminal, file):
        assert TOKEN not in text
        assert HIDDEN in text


def test_the_password_of_a_uri_is_hidden(tmp_path):
    code = "logging.info('at http://me:hunter22@host/path and http://host/path')"
    _, terminal, file = run(code, tmp_path / "rule.log")
    for text in (terminal, file):
        assert f"at http://{HIDDEN}@host/path and http://host/path" in text
