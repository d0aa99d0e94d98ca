"""States survive what a kill can leave behind, and run nothing."""

import logging
from pathlib import Path

import pytest
import torch

from aent.checkpoint import StateError, load_state, save_state


def test_round_trip(tmp_path):
    weights = torch.arange(5.0)
    save_state(tmp_path, 3, {"weights": weights, "lambda": 0.25})
    state = load_state(tmp_path)
    assert state["step"] == 3
    assert state["lambda"] == 0.25
    assert torch.equal(state["weights"], weights)


def test_none_without_states(tmp_path):
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "missing") is None


def test_keeps_the_newest_two(tmp_path):
    for step in (1, 2, 30):
        save_state(tmp_path, step, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "state-00000002.pt",
        "state-00000030.pt",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        lambda data: data[:-1] + b"X",
        lambda data: data + b"X",
    ],
    ids=["one byte short", "half", "empty", "bit flip", "wrong magic", "one byte more"],
)
def test_falls_back_to_the_state_before_a_damaged_one(tmp_path, caplog, damage):
    save_state(tmp_path, 1, {"value": 1})
    newest = save_state(tmp_path, 2, {"value": 2})
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert load_state(tmp_path)["value"] == 1
    assert newest.name in caplog.text


def test_only_damaged_states_stop_the_run(tmp_path):
    save_state(tmp_path, 1, {}).write_bytes(b"torn")
    with pytest.raises(StateError, match="none of the 1 states is usable"):
        load_state(tmp_path)


def test_a_partial_file_is_ignored(tmp_path):
    save_state(tmp_path, 1, {"value": 1})
    (tmp_path / "state-00000002.partial").write_bytes(b"half")
    assert load_state(tmp_path)["value"] == 1


class Payload:
    """Pickled, it is the order to create a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_a_state_runs_nothing_when_opened(tmp_path):
    """Its checksum is right: whoever can write here can compute one."""
    mark, folder = tmp_path / "made", tmp_path / "state"
    folder.mkdir()
    save_state(folder, 1, {"payload": Payload(mark)})
    with pytest.raises(StateError, match=r"00001\.pt: is intact, but torch cannot open it"):
        load_state(folder)
    assert not mark.exists()
