"""Journals that are read while another process writes them."""

from __future__ import annotations

import os

from aent.journal import Follower, encode, read_journal


def test_a_follower_reads_what_is_added(tmp_path):
    path = tmp_path / "journal"
    path.write_text(encode({"step": 1}))
    follower = Follower(path)
    assert follower.read() == [{"step": 1}]
    assert follower.read() == []
    second, third = encode({"step": 2}), encode({"step": 3})
    with path.open("a") as file:
        file.write(second + third[:9])
        file.flush()
        assert follower.read() == [{"step": 2}]
        assert follower.read() == []  # torn so far
        file.write(third[9:])
    assert follower.read() == [{"step": 3}]
    follower.rewind()
    assert follower.read() == read_journal(path) == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_a_follower_stops_at_damage(tmp_path):
    path = tmp_path / "journal"
    path.write_text(encode({"step": 1}).replace("1", "7", 1) + encode({"step": 2}))
    assert Follower(path).read() == []


def test_a_follower_knows_its_journals_successor(tmp_path):
    path, other = tmp_path / "journal", tmp_path / "other"
    path.write_text(encode({"step": 1}))
    follower = Follower(path)
    assert follower.is_current()
    other.write_text(encode({"step": 1}))
    os.replace(other, path)
    assert not follower.is_current()
    path.unlink()
    assert not follower.is_current()
