"""Checksums of a model directory, kept inside it, so that damage is noticed before it is used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

NAME = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write `checksums.json`: file name -> SHA-256 of every other file in the folder."""
    sums = {file.name: _sha256(file) for file in _files(folder)}
    (folder / NAME).write_text(json.dumps(sums, indent=2) + "\n")


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that has checksums, naming the file; None when nothing is."""
    try:
        sums = json.loads((folder / NAME).read_text())
    except (OSError, ValueError) as error:
        return f"{folder / NAME}: cannot be read ({error})"
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            return f"{file}: is missing"
        if _sha256(file) != expected:
            return f"{file}: is damaged ({file.stat().st_size} bytes, another SHA-256 than saved)"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name != NAME)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
