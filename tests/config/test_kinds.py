"""The registries: a section has exactly the keys of its kind, and every kind is implemented."""

import pytest

from jaxlm.config.compose import all_keys, compose, groups, to_yaml
from jaxlm.config.keys import keys_of
from jaxlm.config.model_kinds import FEED_FORWARDS, POSITIONS
from jaxlm.config.schema import SECTIONS, Config
from jaxlm.host.errors import UserError

NEEDS = {
    "text": ["data.path=x"],
    "hub": ["data.hub=a/b"],
    "tokens": ["data.path=x", "data.vocab_size=9"],
    "none": ["data=markov"],
    "pretrained": ["tokenizer.path=x"],
}
KINDS = [(section, name) for section, kinds in SECTIONS.items() for name in kinds]


@pytest.mark.parametrize(("section", "name"), KINDS)
def test_a_section_has_exactly_the_keys_of_its_kind(section, name):
    config = compose([f"{section}={name}", *NEEDS.get(name, [])], strict=True)
    own = {f"{section}.{key}" for key in SECTIONS[section].fields(name)}
    assert {key for key in keys_of(config) if key.startswith(f"{section}.")} == own
    inside = to_yaml(config).split(f"\n{section}:\n")[1]
    written = [line for line in inside.splitlines() if line.startswith("  ") and ":" in line]
    first = written[: len(own)]
    assert {f"{section}.{line.split(':')[0].strip()}" for line in first} == own


def test_a_key_of_another_kind_is_refused_naming_the_kinds_that_have_it():
    for words, said in (
        (["optimizer=lion", "optimizer.eps=1e-9"], "it requires optimizer=adamw"),
        (["schedule=linear", "schedule.decay=30%"], "it requires schedule=wsd"),
        (["schedule=constant", "schedule.final_lr=0.5"], "schedule=cosine or schedule=wsd"),
        (["model.position=learned", "model.rope_theta=300"], "it requires model.position=rope"),
    ):
        with pytest.raises(UserError, match=f"has no effect: .*{said}"):
            compose(words, strict=True)


def test_every_kind_is_an_option_of_its_group_and_a_choice_of_its_name():
    for section, kinds in SECTIONS.items():
        assert set(kinds) <= set(groups()[section])
        assert all_keys()[f"{section}.name"].metadata["choices"] == tuple(kinds)


def test_every_kind_is_implemented():
    from jaxlm.data.prepare import PREPARE
    from jaxlm.engine.layers import ACTIVATIONS
    from jaxlm.spec.schedule import SHAPES
    from jaxlm.train.trackers import TRACKERS

    assert set(PREPARE) == set(SECTIONS["data"])
    assert set(SHAPES) == set(SECTIONS["schedule"])
    assert set(TRACKERS) == set(SECTIONS["tracker"])
    assert set(ACTIVATIONS) == set(FEED_FORWARDS)


def test_the_choices_of_model_keys_come_from_the_registries():
    known = keys_of(Config)
    assert known["model.ffn"].metadata["choices"] == tuple(FEED_FORWARDS)
    assert known["model.position"].metadata["choices"] == tuple(POSITIONS)
    assert all(f"model.{key}" in known for kind in POSITIONS.values() for key in kind.keys)
