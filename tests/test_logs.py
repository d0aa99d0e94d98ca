"""Scripts' logging, in processes of their own as rules run them."""

from __future__ import annotations

import subprocess
import sys

START = "import logging, threading, warnings\nfrom aent.logs import configure_logging\n"


def run(code: str, log) -> tuple[int, str, str]:
    """Exit status, terminal and log file of a script that logs to `log`."""
    script = f"{START}configure_logging({str(log)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
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
