"""Promise of the scales and experiments: another train.duration keeps the intervals sensible."""

import pytest

from jaxlm.config.compose import compose, groups
from jaxlm.config.duration import Horizon, horizon, parse

# These mean epochs where they say so: patience is counted in evaluations.
IN_EPOCHS = ("shakespeare_heads", "shakespeare_heads_wide", "shakespeare_layers")
SAVED_EACH_EPOCH = ("scaling_70m", "scaling_130m", "scaling_300m")  # as published


def events(config, name, train_tokens=10**6):
    """How often an interval falls due in the whole run."""
    ahead = horizon(config, train_tokens)
    count = ahead.counter(getattr(config.train, name), f"train.{name}")
    return count(ahead.steps or 10**9, ahead.seconds or 0.0)


@pytest.mark.parametrize("scale", ["full", "cpu", "smoke"])
@pytest.mark.parametrize("experiment", groups()["experiment"])
def test_evaluations_and_checkpoints_follow_the_duration(experiment, scale):
    """At most 50 of each in runs of 200 and of 20,000 steps and in one of an hour."""
    words = [f"experiment={experiment}", f"scale={scale}", "data.train_tokens=1M"]
    config = compose(words, checked=False)
    for name in ("eval_every", "checkpoint_every"):
        unit = parse(getattr(config.train, name), name)[1]
        if experiment in SAVED_EACH_EPOCH and (scale, name) == ("full", "checkpoint_every"):
            continue
        if experiment in IN_EPOCHS and scale == "full":
            assert unit in ("epochs", "percent")
            continue
        assert unit == "percent", f"{name}: {getattr(config.train, name)}"
        for duration in ("200", "20000", "1hours"):
            config.train.duration = duration
            assert 1 <= events(config, name) <= 50


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["full", "cpu", "smoke"])
def test_schedules_follow_the_duration(scale):
    for schedule in groups()["schedule"]:
        config = compose([f"schedule={schedule}", f"scale={scale}"])
        for name in ("warmup", "decay", "cycle"):
            value, unit = parse(getattr(config.schedule, name, "0"), name)
            assert unit == "percent" or value == 0, f"{schedule}: {name}"


def test_a_smoke_run_of_200_steps_evaluates_twice():
    config = compose(["scale=smoke", "train.duration=200"])
    ahead = Horizon.of(config.train.duration, 128, None)
    count = ahead.counter(config.train.eval_every, "train.eval_every")
    due = [step for step in range(1, 201) if count(step, 0.0) > count(step - 1, 0.0)]
    assert due == [100, 200]
