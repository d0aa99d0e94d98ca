"""Logging of scripts: one format, in the terminal and in the rule's log file."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from types import TracebackType

FORMAT = "%(asctime)s %(levelname).1s %(message)s"
TIME = "%H:%M:%S"

# Libraries that report each step of what they do at level INFO.
CHATTY = ("alembic", "mlflow", "httpx", "datasets", "matplotlib", "fontTools", "absl", "filelock")


def configure_logging(file: Path | str | None = None, level: int = logging.INFO) -> None:
    """Send log records, warnings and uncaught exceptions to the terminal and to a file.

    The file gets the traceback of an exception that ends the script, or one of its threads; the
    terminal gets it too, from Python itself. Calling this again replaces the earlier set-up.

    Args:
        file: the rule's log file, overwritten; None for the terminal alone.
        level: lowest level shown.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, mode="w", encoding="utf-8"))
    logging.basicConfig(level=level, format=FORMAT, datefmt=TIME, handlers=handlers, force=True)
    logging.captureWarnings(True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    if file is not None:
        _report_uncaught(handlers[-1])


def _report_uncaught(handler: logging.Handler) -> None:
    """Write exceptions that nothing catches to `handler`, then let Python report them too."""

    def write(what: str, error: BaseException, trace: TracebackType | None) -> None:
        record = logging.LogRecord(
            "aent", logging.CRITICAL, "", 0, what, (), (type(error), error, trace)
        )
        handler.handle(record)
        handler.flush()

    def of_script(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        write("the script ends with an error", error, trace)
        sys.__excepthook__(kind, error, trace)

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            name = arguments.thread.name if arguments.thread else "a thread"
            write(f"{name} ends with an error", arguments.exc_value, arguments.exc_traceback)
        threading.__excepthook__(arguments)

    sys.excepthook = of_script
    threading.excepthook = of_thread
