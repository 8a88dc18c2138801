"""The command line: shows help, composes a configuration, runs a job or a sweep, prints errors."""

import dataclasses
import os
import sys
from pathlib import Path

from jaxlm.host.console import print_anything
from jaxlm.host.errors import UserError
from jaxlm.host.names import check_working_folder

USAGE = """\
usage: python run.py [experiment=NAME] [job=JOB] [group=option] [key=value ...]

With no argument: experiment=quickstart, a model of the built-in stories, trained in about a minute.

  python run.py                                          train; the results are in runs/quickstart
  python run.py job=generate job.prompt="Once"           continue a text
  python run.py experiment=shakespeare_cpu model.n_heads=8 run.name=heads8
  python run.py data.path=book.txt run.name=book
  python run.py -m optimizer.lr=1e-3,3e-3                one run per value: NAME_lr=0.001, ...

Repeat a command to resume an unfinished run.
"""

_COMPILING = ("job=fit", "job=predict")


def start() -> int:
    """Start the program: run `main` in a process with suitable memory settings."""
    words = set(sys.argv)
    ascii_names = (
        sys.getfilesystemencoding() != "utf-8"
    )  # set by the locale, but file names are UTF-8
    if ascii_names:
        os.environ["PYTHONUTF8"] = "1"
    # Compilers need many heaps, and a fit compiles more than it computes.
    suits = {"-h", "--help", "help"} if ascii_names else {"-h", "--help", "help", *_COMPILING}
    if not words & suits:
        from jaxlm.host.allocator import restart_with_huge_pages

        restart_with_huge_pages("torch" if "backend=torch" in words else "jax")
    return main()


def main(argv: list[str] | None = None) -> int:
    """Run one command line. Returns 0 on success, 1 if it diverged or failed, 2 on a user error."""
    argv = sys.argv[1:] if argv is None else argv
    print_anything()
    try:
        check_working_folder()
        if any(word in ("-h", "--help", "help") for word in argv):
            return help_text([word for word in argv if word not in ("-h", "--help", "help")])
        if any(word in ("-m", "--multirun") for word in argv):
            from jaxlm.cli.sweep import sweep

            return sweep([word for word in argv if word not in ("-m", "--multirun")])
        if "--cfg" in argv:
            return show(argv)
        from jaxlm.cli import jobs
        from jaxlm.config.compose import compose, split_override

        return jobs.run(
            compose(argv, strict=True), given=[split_override(word)[0] for word in argv]
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def show(argv: list[str]) -> int:
    """--cfg job: print the resolved configuration instead of running it."""
    from jaxlm.config.compose import compose, to_yaml

    at = argv.index("--cfg")
    print(to_yaml(compose(argv[:at] + argv[at + 2 :], strict=True)), end="")
    return 0


def help_text(topics: list[str]) -> int:
    """Print --help, --help keys, --help jobs or --help PREFIX (such as --help model)."""
    from jaxlm.config.compose import all_keys, config_folder, groups
    from jaxlm.config.job_options import JOBS

    if topics:
        return _help_keys(topics[0])
    print(USAGE)
    options = groups()
    print("jobs (job=NAME; --help jobs lists their options)")
    for name in JOBS:
        print(f"  {name:<16} {JOBS.fields(name)['name'].metadata['help']}")
    print("\nexperiments (experiment=NAME)")
    for name in options.pop("experiment"):
        file: Path = config_folder() / "experiment" / f"{name}.yaml"
        lines = file.read_text("utf-8").splitlines()
        print(f"  {name:<16} {lines[1].removeprefix('# ')}")
    print("\ngroups (group=option)")
    for name, values in options.items():
        if name != "job":
            print(f"  {name:<16} {', '.join(values)}")
    count = len(all_keys())
    print(
        f"\nkeys (key=value): --help keys lists all {count}, --help model lists those of the model"
    )
    print("--cfg job prints the configuration that a command line composes")
    return 0


def _help_keys(topic: str) -> int:
    from jaxlm.config.compose import all_keys

    prefix = {"keys": "", "jobs": "job."}.get(topic, topic)
    found = {name: item for name, item in all_keys().items() if name.startswith(prefix)}
    if not found:
        raise UserError(f"--help {topic}: no key starts with that.\nTry --help keys.")
    for name, item in found.items():
        made = item.default_factory
        default = item.default if made is dataclasses.MISSING else made()
        choices = [_shown(choice) for choice in item.metadata["choices"]]
        allowed = f" [{' | '.join(map(str, choices))}]" if choices else ""
        print(f"{name} = {_shown(default)}{_kinds(name)}\n    {item.metadata['help']}{allowed}")
    return 0


def _kinds(name: str) -> str:
    """The kinds that a key goes with, where its section has others."""
    from jaxlm.config.schema import SECTIONS

    section, _, key = name.partition(".")
    kinds = SECTIONS.get(section)
    having = kinds.having(key) if kinds else []
    if not kinds or len(having) == len(kinds):
        return ""
    return f"   ({', '.join(f'{section}={kind}' for kind in having)})"


def _shown(value: object) -> object:
    """A value as written in a configuration."""
    return "null" if value is None else value
