"""Damaged files: the run falls back to what is good, or stops and names the file.

Interrupted after step 6 of 8, with states of steps 5 and 6, and checkpoints of steps 2, 4 and 6.
"""

from __future__ import annotations

import shutil

import pytest

from aent import trainer
from aent.checkpoint import StateError

STEPS = {"steps": 8, "save_every": 2, "state_every": 1}
STATE = "state/state-00000006.pt"
DAMAGES = {
    "one byte short": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "first bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "bit in the middle": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 16]) + data[len(data) // 2 + 1 :]
    ),
    "late bit": lambda data: data[:-4] + bytes([data[-4] ^ 4]) + data[-3:],
    "zeroed page": lambda data: data[:64] + bytes(len(data[64:4160])) + data[4160:],
    "missing": None,
}
CHECKPOINT = "state/checkpoints/step-6"
# The step that the run goes on from; None where it has to stop.
CASES = (
    [(STATE, damage, 5) for damage in DAMAGES]
    + [("state/state-00000005.pt", damage, 6) for damage in DAMAGES]
    + [(f"{CHECKPOINT}/model.safetensors", damage, 5) for damage in DAMAGES]
    + [(f"{CHECKPOINT}/{name}", "half", 5) for name in ("config.json", "tokenizer.json")]
    + [(f"{CHECKPOINT}/checksums.json", damage, 5) for damage in ("half", "late bit", "missing")]
    + [("state/checkpoints/step-2/model.safetensors", damage, None) for damage in DAMAGES]
    + [("state/metrics.jsonl", damage, 5) for damage in ("one byte short", "late bit")]
    + [("state/metrics.jsonl", damage, None) for damage in ("half", "empty", "missing")]
    + [("state/completions.jsonl", damage, 5) for damage in ("one byte short", "late bit")]
    + [("state/completions.jsonl", damage, None) for damage in ("first bit", "empty", "missing")]
)


@pytest.fixture(scope="module")
def run(toy):
    return toy.run("aent", **STEPS)


@pytest.fixture(scope="module")
def torn(toy, run, tmp_path_factory):
    """A folder as a kill after step 6 left it."""
    output = tmp_path_factory.mktemp("torn") / "run"
    _interrupted(toy, run, output, "collect", 6)
    return output


def _damage(file, how):
    if DAMAGES[how] is None:
        file.unlink()
    else:
        file.write_bytes(DAMAGES[how](file.read_bytes()))


@pytest.mark.parametrize(("name", "damage", "goes_on_after"), CASES)
def test_a_damaged_file(
    toy, run, torn, undisturbed, same_outputs, tmp_path, caplog, name, damage, goes_on_after
):
    output = tmp_path / "run"
    shutil.copytree(torn, output)
    _damage(output / name, damage)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    if goes_on_after is None:
        with pytest.raises(StateError, match=f"{output / name}"):
            toy.train(run, output)
        assert before == {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
        return
    with caplog.at_level("INFO"):
        toy.train(run, output)
    assert f"going on after step {goes_on_after}" in caplog.text
    assert (str(output / name) in caplog.text) == (goes_on_after == 5)
    same_outputs(output, undisturbed(run))


def test_all_states_damaged(toy, run, torn, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(torn, output)
    for name in (STATE, "state/state-00000005.pt"):
        _damage(output / name, "bit in the middle")
    with pytest.raises(StateError, match=r"none of the 2 states .*00006.pt: is dam.*00005.pt: is"):
        toy.train(run, output)


def test_all_states_missing(toy, run, torn, undisturbed, same_outputs, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(torn, output)
    for state in (output / "state").glob("*.pt"):
        state.unlink()
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(StateError, match=rf"{output / STATE}: is missing; 6 steps .* no usable"):
        toy.train(run, output)
    assert before == {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    (output / "state").rename(tmp_path / "away")
    toy.train(run, output)
    same_outputs(output, undisturbed(run))


def _interrupted(toy, run, output, method, step):
    """Train until the session begins this method with this step finished."""
    original = getattr(trainer.Session, method)

    def stop(session, *arguments):
        if session.step == step:
            raise KeyboardInterrupt
        return original(session, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Session, method, stop)
        with pytest.raises(KeyboardInterrupt):
            toy.train(run, output)


def test_a_missing_state_of_those_saved_now_and_then(toy, tmp_path, caplog):
    run, output = toy.run("aent", steps=8, save_every=8, state_every=2), tmp_path / "run"
    _interrupted(toy, run, output, "collect", 7)
    _damage(output / STATE, "missing")
    with caplog.at_level("INFO"):
        toy.train(run, output)
    assert f"{output / STATE}: is missing; 7 steps" in caplog.text
    assert "going on after step 4" in caplog.text


def test_a_kill_before_a_state_is_saved_leaves_none_missing(toy, tmp_path, caplog):
    """The latest moment: the row and the checkpoint of the step are there."""
    run, output = toy.run("aent", steps=8, save_every=2, state_every=2), tmp_path / "run"
    for step in (2, 4, 6):
        _interrupted(toy, run, output, "save", step)
    toy.train(run, output)
    assert "is missing" not in caplog.text


def test_states_may_be_saved_more_often_after_a_kill(toy, undisturbed, same_outputs, tmp_path):
    """What was done before is judged by how often states were saved then."""
    output = tmp_path / "run"
    seldom = toy.run("aent", steps=8, save_every=2, state_every=100)
    often = toy.run("aent", steps=8, save_every=2, state_every=1)
    _interrupted(toy, seldom, output, "collect", 5)
    _interrupted(toy, often, output, "save", 1)  # checkpoints of steps 2 and 4 are still there
    toy.train(often, output)
    same_outputs(output, undisturbed(often))


def test_a_state_set_aside_counts_no_more(toy, run, torn, tmp_path):
    """The newest two states are kept: a damaged one must not push a good one out."""
    output = tmp_path / "run"
    shutil.copytree(torn, output)
    _damage(output / STATE, "half")
    toy.train(run, output)
    names = sorted(path.name for path in (output / "state").glob("state-*"))
    assert names == ["state-00000006.pt.unusable", "state-00000007.pt", "state-00000008.pt"]
