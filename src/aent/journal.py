"""Journals: JSON lines with a checksum each, so that a torn or altered line is noticed."""

from __future__ import annotations

import json
import logging
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
