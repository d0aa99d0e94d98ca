"""Journals: JSON lines with a checksum each, so that a torn or altered line is noticed."""

from __future__ import annotations

import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

CHECKSUM = "crc32"


def encode(record: dict[str, Any]) -> str:
    """A record as a line, its checksum last."""
    return json.dumps(record | {CHECKSUM: _checksum(record)}) + "\n"


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The records before the first damaged line; none where there is no file.

    A last line without an end is what a kill leaves; any other damage is warned of.
    """
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        record = _decode(line)
        if record is None:
            if number < len(lines) or line.endswith(b"\n"):
                log.warning("%s: line %d of %d is damaged", path, number, len(lines))
            break
        records.append(record)
    return records


class Follower:
    """What another process adds to a journal, as it comes."""

    def __init__(self, path: Path):
        """Start at the journal's beginning.

        Raises:
            FileNotFoundError: there is no journal.
        """
        self.path = path
        self.file = path.open("rb")

    def read(self) -> list[dict[str, Any]]:
        """The records since the last call; what is torn so far, or damaged, is none."""
        records: list[dict[str, Any]] = []
        while True:
            place = self.file.tell()
            record = _decode(self.file.readline())
            if record is None:
                self.file.seek(place)
                return records
            records.append(record)

    def rewind(self) -> None:
        """Go back to the beginning."""
        self.file.seek(0)

    def is_current(self) -> bool:
        """Whether the path still names the file that is read, and no successor of it."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    if not isinstance(record, dict) or not line.endswith(b"\n"):
        return None
    checksum = record.pop(CHECKSUM, None)
    return record if checksum == _checksum(record) else None


def _checksum(record: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"
