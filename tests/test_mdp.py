import numpy as np
import pytest
import torch

from aent.config.experiment import Mdp
from aent.mdp import (
    COLUMNS,
    Ascent,
    Bandit,
    ascend,
    build_bandit,
    expected_reward,
    gradient,
    plan,
    recorded_steps,
    simulate,
    top_threshold,
)

SMALL = Mdp(
    actions=200,
    optimal=[3, 1],
    decoys=5,
    optimal_ranks=(4, 40),
    coefficients=[0.1, 0.3],
    keep=[0.1],
    learning_rate=5.0,
    steps=40,
    seeds=[0, 1],
)


def test_bandit_places_decoys_first_and_nests_the_optimal_actions():
    few, many = build_bandit(SMALL, 1, seed=3), build_bandit(SMALL, 3, seed=3)
    assert np.array_equal(few.logits, many.logits)
    assert np.all(np.diff(many.logits) <= 0)
    assert many.rewarded[:5].tolist() == [0, 1, 2, 3, 4]
    assert many.rewards.tolist() == [0.5] * 5 + [1.0] * 3
    assert set(few.rewarded) < set(many.rewarded)
    assert all(5 + 4 <= place <= 5 + 40 for place in many.rewarded[5:])
    assert not np.array_equal(few.logits, build_bandit(SMALL, 1, seed=4).logits)


def test_expected_reward_of_a_policy_computed_by_hand():
    bandit = Bandit(np.zeros(3), np.array([0, 2]), np.array([0.5, 1.0]))
    logits = np.log([2.0, 5.0, 3.0])
    assert expected_reward(bandit, logits) == pytest.approx(0.2 * 0.5 + 0.3 * 1.0)


@pytest.mark.parametrize("coefficient", [0.0, 0.2])
@pytest.mark.parametrize("keep", [None, 12])
def test_gradient_is_that_of_autograd(coefficient, keep):
    bandit = build_bandit(SMALL, 3, seed=0)
    logits = np.random.default_rng(1).normal(0, 2, 200)
    logits -= logits.max()
    kept = None if keep is None else np.argsort(logits)[-keep:]

    z = torch.tensor(logits, requires_grad=True)
    reward = torch.zeros(200, dtype=torch.float64)
    reward[torch.tensor(bandit.rewarded)] = torch.tensor(bandit.rewards)
    space = z if kept is None else z[torch.tensor(kept.copy())]
    logq = torch.log_softmax(space, 0)
    objective = torch.softmax(z, 0) @ reward - coefficient * (logq.exp() * logq).sum()
    objective.backward()

    ours = gradient(bandit, logits, coefficient, kept)
    np.testing.assert_allclose(ours, z.grad.numpy(), atol=1e-14, rtol=1e-10)
    reused = gradient(bandit, logits, coefficient, kept, np.full((4, 200), np.nan))
    np.testing.assert_array_equal(reused, ours)


def test_top_threshold_keeps_exactly_the_wanted_number():
    logits = np.random.default_rng(0).normal(0, 3, 5000)
    exact = np.sort(logits)[::-1][99]
    assert top_threshold(logits, 100) == exact
    drifted = logits + np.random.default_rng(1).normal(0, 1e-3, 5000)
    for guess in (exact, exact + 0.02, exact - 0.02, exact + 3.0, -50.0, 50.0):
        found = top_threshold(drifted, 100, guess)
        assert np.count_nonzero(drifted >= found) == 100
    assert top_threshold(logits, 5000) == logits.min()
    assert top_threshold(logits, 1) == logits.max()


def test_recorded_steps_hold_both_ends():
    steps = recorded_steps(1500)
    assert steps[:4] == [0, 1, 2, 3]
    assert steps[-1] == 1500
    assert 40 <= len(steps) <= 62
    assert recorded_steps(1) == [0, 1]


def test_first_step_of_ascent_computed_by_hand():
    config = Mdp(
        actions=10, optimal=[1], decoys=1, optimal_ranks=(0, 0), keep=[1.0], steps=1, seeds=[0]
    )
    bandit = build_bandit(config, 1, 0)
    pi = np.exp(bandit.logits) / np.exp(bandit.logits).sum()
    value = 0.5 * pi[0] + pi[1]
    reward = np.array([0.5, 1.0] + [0.0] * 8)
    after = bandit.logits + 30.0 * pi * (reward - value)
    expected = [(0, pytest.approx(value)), (1, pytest.approx(expected_reward(bandit, after)))]
    assert ascend(config, Ascent(1, "none", None, 0.0, 0)) == expected


def test_keeping_every_action_is_the_plain_entropy():
    entropy = ascend(SMALL, Ascent(3, "entropy", None, 0.1, 0))
    clamped = ascend(SMALL, Ascent(3, "clamped", 1.0, 0.1, 0))
    np.testing.assert_allclose(clamped, entropy, rtol=1e-10)


def test_simulate_covers_the_plan_and_repeats_itself():
    values = simulate(SMALL)
    assert list(values.columns) == COLUMNS
    # 2 problems x 2 seeds x (none + 2 strengths x (entropy + 1 clamp))
    assert len(plan(SMALL)) == 20
    assert len(values) == 20 * len(recorded_steps(40))
    assert set(values["regulariser"]) == {"none", "entropy", "clamped"}
    assert values.loc[values["regulariser"] == "none", "coefficient"].eq(0).all()
    assert values["keep"].notna().eq(values["regulariser"] == "clamped").all()
    assert values["value"].between(0, 1).all()
    assert simulate(SMALL).equals(values)


def test_processes_give_the_same_numbers():
    config = SMALL.model_copy(update={"threads": 2, "optimal": [1], "seeds": [0]})
    assert simulate(config).equals(simulate(config.model_copy(update={"threads": 1})))


def test_without_a_bonus_the_policy_settles_on_the_decoys_a_small_clamp_finds_the_optimum():
    config = Mdp(actions=5000, optimal=[3], optimal_ranks=(20, 400), steps=300, seeds=[0])
    final = {
        kind: ascend(config, Ascent(3, kind, keep, strength, 0))[-1][1]
        for kind, keep, strength in [("none", None, 0.0), ("clamped", 0.02, 0.12)]
    }
    assert final["none"] == pytest.approx(0.5, abs=0.01)
    assert final["clamped"] > final["none"] + 0.1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimal_ranks", (20, 99_960)),
        ("optimal_ranks", (30, 20)),
        ("optimal", [0]),
        ("optimal", [2000]),
        ("keep", [0.0]),
        ("keep", [1.5]),
        ("coefficients", [0.0]),
    ],
)
def test_impossible_problems_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        Mdp(**{key: value})
