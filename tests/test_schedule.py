"""Learning rates: the recipe's tables, every policy by hand, and the steps between them."""

from dataclasses import replace
from math import exp, inf

import numpy as np
import pytest

from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import Phase
from nptrain.recipes.schedule import Progress, advance, check_policy, drops_of_multistep, learning_rate

PART_1, PART_2 = get_recipe("resnet50-448nodes").phases


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(0, 0.1), (1, 0.1 + 4.7 / 446), (445, 4.8 - 4.7 / 446), (446, 4.8 * (1 - 446 / 8040)), (4020, 2.4),
     (7638, 0.24), (8039, 4.8 / 8040)],
)  # fmt: skip
def test_part_1(iteration, rate):
    assert learning_rate(PART_1, iteration) == pytest.approx(rate, rel=1e-12)


def test_the_rate_drops_where_the_warm_up_ends():
    assert learning_rate(PART_1, 445) == pytest.approx(4.789, abs=5e-4)
    assert learning_rate(PART_1, 446) == pytest.approx(4.534, abs=5e-4)


@pytest.mark.parametrize(("iteration", "rate"), [(0, 0.254), (201, 0.0635), (401, 0.254 / 402**2)])
def test_part_2(iteration, rate):
    assert learning_rate(PART_2, iteration) == pytest.approx(rate, rel=1e-12)


BASE = Phase("x", base_lr=2.0, max_iter=100, weight_decay=0.0)


@pytest.mark.parametrize(
    ("values", "iteration", "rate"),
    [
        ({"lr_policy": "fixed"}, 77, 2.0),
        ({"lr_policy": "step", "gamma": 0.5, "stepsize": 10}, 9, 2.0),
        ({"lr_policy": "step", "gamma": 0.5, "stepsize": 10}, 30, 0.25),
        ({"lr_policy": "multistep", "gamma": 0.1, "stepvalue": (10, 20)}, 10, 0.2),
        ({"lr_policy": "multistep", "gamma": 0.1, "stepvalue": (10, 20)}, 25, 0.02),
        ({"lr_policy": "exp", "gamma": 0.9}, 3, 2 * 0.729),
        ({"lr_policy": "exp", "gamma": 2.0}, 1100, inf),
        ({"lr_policy": "exp", "gamma": 2.0, "base_lr": 0.0}, 1100, 0.0),
        ({"lr_policy": "inv", "gamma": 0.5, "power": 2.0}, 2, 0.5),
        ({"lr_policy": "poly", "power": 2.0}, 50, 0.5),
        ({"lr_policy": "poly_cyc", "power": 2.0, "lr_iter": 200}, 50, 2 * 0.5625),
        ({"lr_policy": "sigmoid", "gamma": -0.1, "stepsize": 50}, 50, 1.0),
        ({"lr_policy": "sigmoid", "gamma": -0.1, "stepsize": 50}, 60, 2 / (1 + exp(1))),
        ({"lr_policy": "sigmoid", "gamma": 1.0, "stepsize": 5000}, 0, 0.0),
        ({"lr_policy": "poly", "power": 0.0}, 99, 2.0),
    ],
)
def test_policies(values, iteration, rate):
    assert learning_rate(replace(BASE, **values), iteration) == pytest.approx(rate, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    ("name", "iteration", "rate"),
    [
        ("init", 0, 0.1),
        ("init", 780, (1.6 + 0.1) / 2),
        ("init", 1560, 1.6 * (1 - 1560 / 18720)),
        ("init", 7799, 1.6 * (1 - 7799 / 18720)),
        ("cyc1", 0, 1.02),
        ("cyc1", 3749, 1.02 * (1 - 3749 / 7500) ** 2),
        ("cyc2", 0, 0.255),
        ("cyc2", 500, (0.764 + 0.255) / 2),
        ("cyc2", 1000, 0.764 * (1 - 1000 / 7500) ** 2),
        ("cyc2", 4749, 0.764 * (1 - 4749 / 7500) ** 2),
        ("cyc3", 0, 0.19),
        ("cyc3", 999, 0.572 - (0.572 - 0.19) / 1000),
        ("cyc3", 4749, 0.572 * (1 - 4749 / 7500) ** 2),
        ("collapse", 0, 0.143),
        ("collapse", 780, 0.143 / 4),
        ("collapse", 1559, 0.143 / 1560**2),
    ],
)
def test_the_cycles_of_the_64_node_recipe(name, iteration, rate):
    phase = get_recipe("resnet50-64nodes-cyclic").phase(name)
    assert learning_rate(phase, iteration) == pytest.approx(rate, rel=1e-12)


PLATEAU = replace(BASE, lr_policy="plateau", gamma=0.5, plateau_winsize=(3, 2))


def followed(phase, losses, progress=None, start=0):
    """[(the rate, the Progress) at each iteration] that has one of the losses."""
    progress, found = progress or Progress(), []
    for iteration, loss in enumerate(losses, start):
        progress = advance(progress, phase, iteration, loss)
        found.append((learning_rate(phase, iteration, progress.current_step), progress))
    return found


def test_plateau_by_hand():
    losses = [5, 4, 4, 4, 4, 3, 3.5, 3.25, 3, 9, 9]
    rates = [2, 2, 2, 2, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]  # drops at 1 + 3 and 5 + 2, and then no more
    found = followed(PLATEAU, losses)
    assert [rate for rate, _ in found] == rates
    assert [progress.iter_last_event for _, progress in found] == [0, 1, 1, 1, 4, 5, 5, 7, 7, 7, 7]
    assert [progress.minimum_loss for _, progress in found] == [5, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3]
    never_better = followed(PLATEAU, [1, 2, 2, 2, 2, 2, 2])  # a drop is an event, and leaves the minimum
    assert [rate for rate, _ in never_better] == [2, 2, 2, 1, 1, 0.5, 0.5]


def test_plateau_looks_at_the_smoothed_loss():
    phase = replace(PLATEAU, average_loss=2)
    found = followed(phase, [4, 2, 4, 2, 2, 1])
    assert [progress.smoothed_loss for _, progress in found] == [4, 3, 3, 3, 2, 1.5]
    assert [progress.iter_last_event for _, progress in found] == [0, 1, 1, 1, 4, 5]
    assert found[-1][1].losses == (2, 1)


def test_plateau_after_a_warm_up():
    phase = replace(PLATEAU, warmup_iter=5, warmup_start_lr=1.0, plateau_winsize=(2,))
    found = followed(phase, [1, 2, 2, 2, 2, 2, 2, 2])
    assert [rate for rate, _ in found] == pytest.approx([1, 1.2, 1.4, 1.6, 1.8, 2, 2, 1])
    assert found[4][1] == Progress(losses=(2,))  # a loss of the warm-up is no minimum


def test_plateau_goes_on_from_single_precision():
    """What a .solverstate keeps decides as what it was made from."""
    losses = [0.3, 0.1, 0.1, 0.1 - 1e-12, 0.1, 0.1]
    found = followed(PLATEAU, losses)
    assert found[-1][1].minimum_loss == float(np.float32(0.1))
    for stop in range(1, 6):
        kept = replace(found[stop - 1][1], minimum_loss=float(np.float32(found[stop - 1][1].minimum_loss)))
        assert followed(PLATEAU, losses[stop:], kept, stop) == found[stop:]


def test_what_a_state_says_of_the_step_policies():
    """As in Caffe: the drops at the last iteration that was computed; none in the warm-up."""
    step = replace(BASE, lr_policy="step", gamma=0.5, stepsize=3)
    assert [p.current_step for _, p in followed(step, [1.0] * 7)] == [0, 0, 0, 1, 1, 1, 2]
    multistep = replace(BASE, lr_policy="multistep", gamma=0.5, stepvalue=(1, 4), warmup_iter=3)
    assert [p.current_step for _, p in followed(multistep, [1.0] * 6)] == [0, 0, 0, 1, 2, 2]
    assert [p.current_step for _, p in followed(replace(BASE, power=1.0), [1.0] * 3)] == [0, 0, 0]


def test_steps_inside_the_warm_up_follow_it_one_an_iteration():
    phase = replace(BASE, base_lr=0.03, lr_policy="multistep", gamma=0.1, stepvalue=(3, 5), warmup_iter=10)
    rates = [learning_rate(phase, i) for i in (5, 9, 10, 11, 12)]
    assert rates == pytest.approx([0.015, 0.027, 0.003, 0.0003, 0.0003])
    several = replace(phase, stepvalue=(3, 5, 11, 20, 20), max_iter=30)
    assert drops_of_multistep(several) == [10, 11, 12, 20, 21]
    assert drops_of_multistep(replace(several, warmup_iter=0)) == [3, 5, 11, 20, 21]


def test_a_policy_says_what_it_lacks():
    with pytest.raises(InputError, match="lr_policy: found 'cosine', expected one of fixed, step"):
        check_policy(replace(BASE, lr_policy="cosine"))
    with pytest.raises(InputError, match="stepsize: found none, expected a value, as lr_policy is 'step'"):
        check_policy(replace(BASE, lr_policy="step", gamma=0.1))
    with pytest.raises(InputError, match="stepsize: found 0, expected 1 or more"):
        check_policy(replace(BASE, lr_policy="step", gamma=0.1, stepsize=0))
    with pytest.raises(InputError, match="plateau_winsize: found none, expected a value"):
        check_policy(replace(BASE, lr_policy="plateau", gamma=0.1))
    with pytest.raises(InputError, match="plateau_winsize: found 0, expected 1 or more"):
        check_policy(replace(BASE, lr_policy="plateau", gamma=0.1, plateau_winsize=(9, 0)))
    with pytest.raises(InputError, match="gamma: found -1, expected 0 or more, as lr_policy is 'inv'"):
        check_policy(replace(BASE, lr_policy="inv", gamma=-1))
    with pytest.raises(InputError, match="stepvalue: found 5, 3, expected values in rising order"):
        check_policy(replace(BASE, lr_policy="multistep", gamma=0.1, stepvalue=(5, 3)))
    with pytest.raises(InputError, match=r"lr_iter: found 99, expected max_iter \(100\) or more"):
        check_policy(replace(BASE, lr_policy="poly_cyc", lr_iter=99))
