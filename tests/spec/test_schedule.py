"""Durations with units, and schedules against optax."""

import math

import numpy as np
import optax
import pytest

from jaxlm.config.duration import Horizon, parse, parse_count
from jaxlm.config.schedules import SCHEDULES, WSD, Constant, Cosine, Cyclic, Linear
from jaxlm.host.errors import UserError
from jaxlm.spec.schedule import learning_rate

STEPS = Horizon(steps=1000, seconds=None, tokens_per_step=500, steps_per_epoch=50.0)
CLOCK = Horizon(steps=None, seconds=3600.0, tokens_per_step=500, steps_per_epoch=50.0)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("2000", 2000), ("40ktokens", 80), ("1Mtokens", 2000), ("3epochs", 150), ("0.5epochs", 25)],
)
def test_durations_in_every_unit_become_steps(text, steps):
    assert Horizon.of(text, 500, 50.0).steps == steps


def test_a_duration_in_hours_limits_the_clock():
    horizon = Horizon.of("1.5hours", 500, None)
    assert (horizon.steps, horizon.seconds) == (None, 5400.0)


def test_a_fraction_of_a_step_counts_as_a_whole_step():
    assert Horizon.of("501tokens", 500, None).steps == 2


@pytest.mark.parametrize(
    "text", ["", "soon", "-3", "3 parsecs", "1e", "nan", "5%", "0", "4Mhours s"]
)
def test_an_invalid_duration_is_refused(text):
    with pytest.raises(UserError, match="train.duration"):
        Horizon.of(text, 500, 50.0)


def test_counts_take_multipliers_but_no_unit():
    assert parse_count("20M", "data.train_tokens") == 20_000_000
    with pytest.raises(UserError, match="data.train_tokens"):
        parse_count("20Mtokens", "data.train_tokens")
    assert parse("1e3", "x") == (1000.0, "steps")


def test_epochs_of_an_unknown_corpus_are_refused():
    with pytest.raises(UserError, match="data.train_tokens"):
        Horizon.of("2epochs", 500, None)


def test_intervals_fall_due_when_their_count_grows():
    for text, due in {"10%": 100, "250": 250, "1epochs": 50, "5ktokens": 10}.items():
        count = STEPS.counter(text, "train.eval_every")
        grown = [s for s in range(1, 1001) if count(s, 0.0) > count(s - 1, 0.0)]
        assert grown == list(range(due, 1001, due))
    assert STEPS.counter("0", "x")(1000, 0.0) == 0


def test_intervals_of_a_clocked_run_follow_the_clock():
    count = CLOCK.counter("10%", "train.eval_every")
    assert [count(0, second) for second in (0.0, 359.9, 360.1, 3599.0)] == [0, 0, 1, 9]
    assert CLOCK.counter("100", "x")(250, 0.0) == 2


def test_a_step_limited_run_refuses_intervals_of_time():
    with pytest.raises(UserError, match="schedule.warmup"):
        STEPS.span("1hours", "schedule.warmup")
    with pytest.raises(UserError, match="schedule.warmup"):
        CLOCK.span("100", "schedule.warmup")


def curve(config, horizon=STEPS, peak=1e-3):
    return np.array([learning_rate(config, peak, horizon, s) for s in range(horizon.steps)])


@pytest.mark.parametrize("warmup", ["0", "37", "10%"])
def test_cosine_is_optax_warmup_cosine(warmup):
    steps = int(STEPS.span(warmup, "x"))
    theirs = optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps, 1000, 1e-4)
    expected = [float(theirs(s + 1)) for s in range(1000)]
    np.testing.assert_allclose(curve(Cosine(warmup=warmup)), expected, rtol=2e-5)


def test_linear_is_optax_join_of_two_lines():
    theirs = optax.join_schedules(
        [optax.linear_schedule(0, 1e-3, 50), optax.linear_schedule(1e-3, 2e-4, 950)], [50]
    )
    expected = [float(theirs(s + 1)) for s in range(1000)]
    ours = curve(Linear(warmup="50", final_lr=0.2))
    np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_wsd_is_stable_and_then_decays_to_the_end():
    lr = curve(WSD(warmup="100", decay="20%", final_lr=0.0))
    assert (lr[99:799] == 1e-3).all()
    np.testing.assert_allclose(lr[799:], 1e-3 * (1000 - np.arange(800, 1001)) / 200, atol=1e-12)


def test_constant_stays_at_the_peak_after_the_warmup():
    lr = curve(Constant(warmup="4"))
    assert lr[:5].tolist() == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert (lr[4:] == 1e-3).all()


def test_cyclic_restarts_at_the_peak():
    lr = curve(Cyclic(warmup="0", cycle="250", final_lr=0.1))
    assert [lr[s] for s in (249, 499, 749)] == [1e-3] * 3
    assert lr[248] == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_the_last_step_has_exactly_the_final_rate(name):
    assert curve(SCHEDULES[name](final_lr=0.25))[-1] == pytest.approx(2.5e-4, rel=1e-12)


def test_a_clocked_run_is_scheduled_by_its_seconds():
    config = Cosine(warmup="10%", final_lr=0.0)
    at = [learning_rate(config, 1.0, CLOCK, 7, seconds) for seconds in (180.0, 360.0, 1980.0)]
    assert at == pytest.approx([0.5, 1.0, 0.5 * (1 + math.cos(math.pi / 2))])
