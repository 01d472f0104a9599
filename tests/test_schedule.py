"""Learning rates: the recipe's tables, every policy by hand, and the steps between them."""

from dataclasses import replace
from math import exp

import pytest

from nptrain.errors import InputError
from nptrain.recipes import Phase, get_recipe
from nptrain.schedule import check_policy, learning_rate

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
    ("init", "iteration", "rate"),
    [
        ((1.6, 1.0, 7800, 18720, 1560, 0.1), 0, 0.1),
        ((1.6, 1.0, 7800, 18720, 1560, 0.1), 7799, 1.6 * (1 - 7799 / 18720)),
        ((1.02, 2.0, 3750, 7500, 0, 0.0), 3750 - 1, 1.02 * (1 - 3749 / 7500) ** 2),
        ((0.764, 2.0, 4750, 7500, 1000, 0.255), 500, (0.764 + 0.255) / 2),
    ],
)
def test_the_cycles_of_the_64_node_recipe(init, iteration, rate):
    base_lr, power, max_iter, lr_iter, warmup_iter, warmup_start_lr = init
    phase = replace(BASE, lr_policy="poly_cyc", base_lr=base_lr, power=power, max_iter=max_iter, lr_iter=lr_iter,
                    warmup_iter=warmup_iter, warmup_start_lr=warmup_start_lr)  # fmt: skip
    assert learning_rate(phase, iteration) == pytest.approx(rate, rel=1e-12)


def test_a_policy_says_what_it_lacks():
    with pytest.raises(InputError, match="lr_policy: found 'cosine', expected one of fixed, step"):
        check_policy(replace(BASE, lr_policy="cosine"))
    with pytest.raises(InputError, match="stepsize: found none, expected a value, as lr_policy is 'step'"):
        check_policy(replace(BASE, lr_policy="step", gamma=0.1))
    with pytest.raises(InputError, match="stepsize: found 0, expected 1 or more"):
        check_policy(replace(BASE, lr_policy="step", gamma=0.1, stepsize=0))
    with pytest.raises(InputError, match=r"lr_iter: found 99, expected max_iter \(100\) or more"):
        check_policy(replace(BASE, lr_policy="poly_cyc", lr_iter=99))
