"""Logging of scripts: one format, in the terminal and in the rule's log file."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from pathlib import Path
from types import TracebackType

FORMAT = "%(asctime)s %(levelname).1s %(message)s"
TIME = "%H:%M:%S"
HIDDEN = "[hidden]"

_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.I)
_PASSWORD = re.compile(r"(?<=://)[^/\s@'\"]*:[^/\s'\"]*@")

# Libraries that report each step of what they do at level INFO.
CHATTY = ("alembic", "mlflow", "httpx", "datasets", "matplotlib", "fontTools", "absl", "filelock")


def configure_logging(file: Path | str | None = None, level: int = logging.INFO) -> None:
    """Send log records, warnings and uncaught exceptions to the terminal and to a file.

    Both get the traceback of an exception that ends the script, or one of its threads, and neither
    gets secrets: see `discreet`. Calling this again replaces the earlier set-up.

    Args:
        file: the rule's log file, overwritten; None for the terminal alone.
        level: lowest level shown.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, mode="w", encoding="utf-8"))
    logging.basicConfig(level=level, format=FORMAT, datefmt=TIME, handlers=handlers, force=True)
    for handler in handlers:
        handler.setFormatter(_Discreet(FORMAT, TIME))
    logging.captureWarnings(True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    _report_uncaught(handlers)


def discreet(text: str) -> str:
    """The text without the passwords of its URIs and without the environment's secrets."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            text = text.replace(value, HIDDEN)
    return _PASSWORD.sub(f"{HIDDEN}@", text)


class _Discreet(logging.Formatter):
    """Hides secrets in all that is logged, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return discreet(super().format(record))


def _report_uncaught(handlers: list[logging.Handler]) -> None:
    """Write exceptions that nothing catches to the handlers, in place of Python's own report."""

    def write(
        what: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        record = logging.LogRecord("aent", logging.CRITICAL, "", 0, what, (), (kind, error, trace))
        for handler in handlers:
            handler.handle(record)
            handler.flush()

    def of_script(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        write("the script ends with an error", kind, error, trace)

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            name = arguments.thread.name if arguments.thread else "a thread"
            what = f"{name} ends with an error"
            write(what, arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    sys.excepthook = of_script
    threading.excepthook = of_thread
