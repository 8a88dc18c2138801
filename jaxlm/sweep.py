"""`-m`: Hydra's own sweeps, one run for each combination of comma-separated values."""

import sys
from pathlib import Path

from jaxlm.compose import check_override, config_folder, groups, split_override, typed
from jaxlm.errors import UserError


def sweep(overrides: list[str]) -> int:
    """Run every combination through Hydra's sweeper and launcher; 2 where any was refused.

    A job that fails is reported, and the others go on. Values follow Hydra's grammar here, since a
    comma separates them. A run's name gets the job's overrides added.
    """
    import hydra

    from jaxlm import jobs

    arguments = []
    for override in overrides:
        key, value = check_override(override)
        plain = key in groups() or key.startswith(("hydra.", "hydra/"))
        arguments.append(f"{key}={value}" if plain else f"++{key}={value}")
    statuses: list[int] = []

    def task(composed) -> None:
        from hydra.core.hydra_config import HydraConfig

        settings = HydraConfig.get()
        experiment = settings.runtime.choices.get("experiment")
        parts = [word.lstrip("+") for word in settings.overrides.task]
        label = ",".join(part for part in parts if not part.startswith(("run.", "experiment=")))
        name = ",".join(filter(None, [experiment, label])).replace("/", "_")
        print(f"\n[{settings.job.num}] {' '.join(parts)}", flush=True)
        try:
            given = [split_override(part)[0] for part in parts]
            choices = settings.runtime.choices
            config = typed(composed, {}, choices, name, given=given, strict=True)
            statuses.append(jobs.run(config, given))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            statuses.append(2)

    # Hydra reads the command line itself, and takes no list of overrides.
    before, sys.argv = sys.argv, [sys.argv[0], "--multirun", *arguments]
    try:
        folder = str(Path(config_folder()))
        hydra.main(version_base="1.3", config_path=folder, config_name="config")(task)()
    finally:
        sys.argv = before
    failed = sum(status != 0 for status in statuses)
    print(f"\n{len(statuses)} runs, {failed} of them failed", flush=True)
    return max(statuses, default=0)
