"""The experiments that are studies, found in their files, which is faster than composing each."""

from jaxlm.config.compose import config_folder, groups

STUDIES = [
    name
    for name in groups()["experiment"]
    if "\nstudy:" in (config_folder() / "experiment" / f"{name}.yaml").read_text("utf-8")
]
# The default, a ladder, one with a time limit, and one with dropout.
TRAIN_ALWAYS = ("quickstart", "markov_ladder", "openwebtext_leaderboard", "shakespeare_gpt")
SINGLE = [name for name in groups()["experiment"] if name not in STUDIES]
