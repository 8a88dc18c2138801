"""Turns command-line overrides into a typed, checked Config: Hydra composes, the schema checks."""

import dataclasses
import functools
import os
import re
import typing
from pathlib import Path

from jaxlm.config import checks
from jaxlm.config.effective import choose_kinds, settle
from jaxlm.config.job_options import JOBS
from jaxlm.config.keys import Leaf, keys_of
from jaxlm.config.run_names import check_name, check_run_folder
from jaxlm.config.schema import SECTIONS, ClaimConfig, Config
from jaxlm.host.checked import Json, read_yaml_text
from jaxlm.host.errors import UserError, nearest
from jaxlm.host.names import check_place, check_utf8, expanded, shortened


def config_folder() -> Path:
    """The Hydra tree: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "configs"
    return beside if (beside / "config.yaml").exists() else package / "configs"


def groups() -> dict[str, list[str]]:
    """Group name -> its options: files of the Hydra tree, and the kinds of sections with kinds."""
    return dict(_groups(config_folder()))


@functools.lru_cache
def _groups(folder: Path) -> dict[str, list[str]]:
    """Read once: every override of every run of a study asks for them. Do not modify it."""
    names = {inside.name for inside in folder.iterdir() if inside.is_dir()}
    return {
        name: sorted(
            {file.stem for file in (folder / name).glob("*.yaml")} | set(SECTIONS.get(name, ()))
        )
        for name in sorted(names | set(SECTIONS))
    }


def store_kinds() -> None:
    """Register each kind as an option of its group, such as data=text, without a file."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for section, kinds in SECTIONS.items():
        for name in kinds:
            if not (config_folder() / section / f"{name}.yaml").exists():
                store.store(group=section, name=name, node={"name": name})


def free_text_keys() -> set[str]:
    """Keys that take any string exactly as typed, without quoting or grammar."""
    return {
        name
        for name, item in all_keys().items()
        if item.type in (str, str | None) and not item.metadata["choices"]
    }


def all_keys() -> dict[str, Leaf]:
    """Dotted name -> field of every key, including the options of all jobs."""
    known = keys_of(Config)
    for job in JOBS.values():
        known |= keys_of(job, "job.")
    return known


def is_key(name: str) -> bool:
    """Whether a dotted name is a key or an entry of a mapping, such as study.variants.NAME."""
    known = all_keys()
    if name in known:
        return True
    inside = [name[:i] for i, letter in enumerate(name) if letter == "."]
    return any(typing.get_origin(known[key].type) is dict for key in inside if key in known)


def split_override(override: str) -> tuple[str, str]:
    """'+model.d_model=64' -> ('model.d_model', '64'). Raises UserError for anything else."""
    key, equals, value = override.partition("=")
    key = key.strip().lstrip("+")
    if not equals or not key or key.startswith("~"):
        raise UserError(
            f"{shortened(override)!r} is not of the form key=value.\n"
            "See `python run.py --help` for the keys and groups."
        )
    return key, value


def check_override(override: str) -> tuple[str, str]:
    """Split an override into key and value. Raises UserError unless its key or option exists."""
    key, value = split_override(override)
    options = groups()
    if key in options and not _SWEEP.fullmatch(value):
        if value not in options[key] and value != "null":
            shown = shortened(value)
            raise UserError(
                f"{key}={shown}: there is no such {key}{nearest(shown, options[key])}.\n"
                f"Choose from: {', '.join(options[key])}."
            )
    elif key not in options and not is_key(key) and not key.startswith(("hydra.", "hydra/")):
        names, key = [*all_keys(), *options], shortened(key)
        short = {name.rsplit(".", 1)[-1]: name for name in names}
        guess = nearest(key, names) or nearest(key.rsplit(".", 1)[-1], short)
        for name in sorted(short, key=len, reverse=True):
            if "." not in key and f"{name!r}" in guess:
                guess = guess.replace(f"{name!r}", f"{short[name]!r}")
                break
        raise UserError(f"{key}: there is no such key{guess}.\nSee `python run.py --help keys`.")
    return key, value


def compose(overrides: list[str], *, checked: bool = True, strict: bool = False) -> Config:
    """The configuration that `python run.py OVERRIDES` means. Raises UserError.

    Without `checked`, its values need not fit together yet. With `strict`, every typed key of the
    data and the tokenizer must have an effect.
    """
    from omegaconf import OmegaConf

    literal, chosen, values, given = {}, [], {}, []
    for override in overrides:
        key, value = check_override(override)
        given.append(key)
        if key in free_text_keys():
            literal[key] = None if value == "null" else value
        elif key in groups() or key.startswith(("hydra.", "hydra/")):
            refuse_list(key, value, parsed(key, value))
            chosen.append(f"{key}={value}")
        else:
            values[key] = parsed(key, value)
            refuse_list(key, value, values[key])
    key = ""
    try:
        tree, choices = _tree_of(str(config_folder()), tuple(chosen))
        composed = OmegaConf.create(tree)
        for key, value in values.items():
            OmegaConf.update(composed, key, value, merge=True)
    except Exception as error:  # Hydra and OmegaConf raise many types
        where = f"{key}={shortened(str(values[key]))}" if key else shortened(" ".join(chosen))
        raise UserError(f"{where} does not fit: {shortened(first_line(error), 200)}.") from None
    return typed(composed, literal, choices, checked=checked, given=given, strict=strict)


# What Hydra may read as several values: commas and the functions of its grammar.
_SWEEP = re.compile(r".*,.*|\s*(choice|range|glob|interval|shuffle|sort|tag)\(.*\)\s*", re.DOTALL)
_MOST_CHARACTERS, _MOST_DEPTH = 100_000, 20


def parsed(key: str, value: str) -> typing.Any:
    """The single value that Hydra's grammar reads. Raises UserError, also for sweeps."""
    override = read_override(key, value)
    if override.is_sweep_override():
        raise checks.several_values(key, value)
    return override.value()


def read_override(key: str, value: str) -> typing.Any:
    """Hydra's `Override` with one or several values. Raises UserError if it reads none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        if len(value) > _MOST_CHARACTERS:
            raise ValueError(f"it has more than {_MOST_CHARACTERS:,} characters")
        override = OverridesParser.create().parse_override(f"++{key}={value}")
        content = override.value()
        several = getattr(content, "list", [content]) if override.is_sweep_override() else [content]
        if _depth(several) > _MOST_DEPTH:
            raise RecursionError
        if "???" in several:
            raise ValueError("??? stands for a missing value")
    except RecursionError:
        raise UserError(f"{key}={shortened(value)} is nested too deeply.") from None
    except Exception as error:  # the parser raises many types
        hint = ""
        if key.startswith("study.variants"):
            hint = (
                "\nQuote the overrides of a variant: study.variants.wide='[\"model.d_model=512\"]'"
            )
        said = shortened(first_line(error).partition(" expecting ")[0], 200)
        raise UserError(f"{key}={shortened(value)} cannot be read: {said}.{hint}") from None
    return override


def refuse_list(key: str, value: str, content: typing.Any) -> None:
    """Raise UserError if a list was given for a group or for a key that takes one value."""
    if not isinstance(content, list):
        return
    known = all_keys()
    kind = str(known[key].type) if key in known else "" if key in groups() else "dict["
    if "list[" in kind:  # a nested list gives several lists
        content = content if any(isinstance(item, list) for item in content) else None
    if "dict[" in kind or content is None:
        return
    if len(content) < 2:
        raise UserError(f"{key}={shortened(value)} is a list, but one value is expected.")
    raise checks.several_values(key, value, listed=True)


def _depth(value: typing.Any) -> int:
    """Nesting depth of lists and mappings, up to the limit."""
    depth, level = 0, [value]
    while level and depth <= _MOST_DEPTH:
        depth += any(isinstance(item, list | dict) for item in level)
        inner = [item.values() if isinstance(item, dict) else item for item in level
                 if isinstance(item, list | dict)]  # fmt: skip
        level = [item for items in inner for item in items]
    return depth


def first_line(error: Exception) -> str:
    """The first line of an exception's message, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def plain_tree(composed: typing.Any) -> Json:
    """OmegaConf's tree as dicts, lists and values, its interpolations as they are written."""
    from omegaconf import OmegaConf

    return typing.cast(Json, OmegaConf.to_container(composed, resolve=False))


@functools.lru_cache(maxsize=64)
def _tree_of(folder: str, chosen: tuple[str, ...]) -> tuple[Json, dict[str, str | None]]:
    """(configuration, group -> option) that Hydra composes from chosen options. Do not modify it.

    Cached, because a study composes its variants from few choices and many values.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    store_kinds()
    with initialize_config_dir(folder, version_base="1.3"):
        composed = hydra_compose("config", overrides=list(chosen), return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    tree = plain_tree(composed)
    del tree["hydra"]
    return tree, choices


def typed(
    composed: typing.Any,
    literal: typing.Mapping[str, str | None],
    choices: typing.Mapping[str, str | None],
    name: str | None = None,
    checked: bool = True,
    given: typing.Collection[str] | None = None,
    strict: bool = False,
) -> Config:
    """Turn a composed tree and the literal values into a checked Config. Raises UserError.

    `choices` are Hydra's (group -> option), and empty for a tree that was composed before. If
    nothing else sets run.name, it is `name` or the name of the experiment. For `given` and
    `strict`, see `effective.settle`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    plain = plain_tree(composed)
    plain.pop("hydra", None)
    job_name = literal.get("job.name")
    job_name = _job_name(plain) if job_name is None else job_name
    if job_name not in JOBS:
        shown = shortened(job_name)
        raise UserError(
            f"job.name={shown}: there is no such job{nearest(shown, JOBS)}.\n"
            f"Choose from: {', '.join(JOBS)}."
        )
    if choices:
        kept = groups().keys() - {"experiment", "job"}
        options = {g: o for g, o in sorted(choices.items()) if g in kept and o}
        plain.setdefault("run", {})["options"] = options
    in_kinds = {key: value for key, value in literal.items() if key.split(".")[0] in SECTIONS}
    for key, value in in_kinds.items():
        section, _, inner = key.partition(".")
        plain.setdefault(section, {})[inner] = _uninterpolated(value)
    kinds = choose_kinds(plain, given, job=job_name, strict=strict)
    try:
        schema = _schema(Config).copy()
        for section, kind in kinds.items():
            schema[section] = _schema(kind)
        job = OmegaConf.merge(_schema(JOBS[job_name]), plain.pop("job", {}))
        tree = OmegaConf.merge(schema, plain)
        tree.job = job
        experiment = choices.get("experiment")
        tree.run.experiment = tree.run.experiment or experiment
        for key, value in literal.items() - in_kinds.items():
            OmegaConf.update(tree, key, _uninterpolated(value), merge=False)
        if tree.run.name is None:
            tree.run.name = name or experiment or "run"
        config = typing.cast(Config, OmegaConf.to_object(tree))
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
        raise translated(error, job_name) from None
    config.run.dir = os.path.expanduser(config.run.dir)
    settle(config, given, strict=strict)
    if checked:
        checks.check(config)
    if checked and choices:  # a stored run already has its folder
        assert config.run.name is not None
        check_name(config.run.name, "run.name")
        check_run_folder(config, cache_folder(config), config_folder())
    if given is not None:
        check_place(config.run.dir, "run.dir")
        check_place(config.run.cache, "run.cache")
    return config


@functools.lru_cache
def _schema(kind: type) -> typing.Any:
    """A dataclass as OmegaConf's tree of types and defaults; `merge` copies it."""
    from omegaconf import OmegaConf

    return OmegaConf.structured(kind)


def _job_name(tree: typing.Any) -> str:
    job = tree.get("job") or {}
    return str(job.get("name", "train") if hasattr(job, "get") else job)


def translated(error: Exception, job_name: str) -> UserError:
    """Translate an OmegaConf error for the user: the key, what is wrong, what is allowed."""
    key = getattr(error, "full_key", None) or ""
    job_keys = keys_of(JOBS[job_name])
    message = shortened(first_line(error), 200)
    if "not in" in message:
        name = key if key in job_keys or "." in key else key
        known = [*keys_of(Config), *(f"job.{k}" for k in job_keys), *keys_of(ClaimConfig)]
        where = f" (job={job_name})" if name.startswith("job.") or name in all_keys() else ""
        return UserError(f"{name}: there is no such key here{where}{nearest(name, known)}.")
    item = all_keys().get(key) or all_keys().get(f"job.{key}")
    wanted = f"\n{key}: {item.metadata['help']}" if item else ""
    return UserError(f"{key}: {message}.{wanted}")


def from_file(path: Path) -> Config:
    """The configuration of a run's config.yaml. Raises UserError."""
    from omegaconf import OmegaConf

    content = read_yaml_text(path)
    if content is None:
        raise UserError(
            f"{path.parent} is not a run: it has no {path.name}.\n"
            "Train one first (python run.py), or choose another with run.dir=FOLDER."
        )
    try:
        return typed(OmegaConf.create(content), {}, {}, path.parent.name)
    except UserError as error:
        raise UserError(
            f"{path} is not a valid configuration: {first_line(error)}.\n"
            "Restore a good copy of the file, or start the run over with run.overwrite=true."
        ) from None
    except Exception as error:  # OmegaConf raises many types
        raise UserError(f"cannot read {path}: {shortened(first_line(error), 200)}.") from None


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML; `from_file` reads it back to an equal Config."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(_uninterpolated(dataclasses.asdict(config))))


def _uninterpolated(value: typing.Any) -> typing.Any:
    """Escape `${` in all strings of a value, so that it stays as typed."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", value)
    if isinstance(value, dict):
        return {key: _uninterpolated(item) for key, item in value.items()}
    return [_uninterpolated(item) for item in value] if isinstance(value, list) else value


def cache_folder(config: Config) -> Path:
    """run.cache as an absolute path. Raises UserError if its name is not UTF-8."""
    check_utf8(expanded(config.run.cache), "run.cache")
    return expanded(config.run.cache).absolute()
