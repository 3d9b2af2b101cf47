"""From a YAML file, keyword arguments and `key=value` settings to a config; all mistakes come in one error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from deepreduce.config.schema import FROM_PYTHON, OptimizeConfig
from deepreduce.config.yaml_text import describe_yaml_error, dump_yaml, parse_yaml, read_yaml
from deepreduce.errors import ConfigError, UserError, nearest_name
from deepreduce.store.checkpoint import check_network_folder
from deepreduce.store.config_file import read_config_text
from deepreduce.store.names import CANDIDATES_RECORD, CONFIG, ENVIRONMENT, LOCK, run_of
from deepreduce.utils.text import one_line, shown

if TYPE_CHECKING:
    from torch import nn

RESULT_FREE = (
    "data.root", "data.download", "data.workers", "training.checkpoint_seconds", "distill.remember_gb",
    "cost.presets", "plot", "device", "threads", "side_by_side", "log",
)  # fmt: skip
"""Keys that change no number of a run: the run may be resumed with other values.

Device, threads and `side_by_side` change numbers only by what they resolve to, which the run's identity holds.
"""

_NAMED_SECTIONS = ("model", "data", "method")
"""Sections that may be written as the plain name of what they configure."""

_GONE = ("draft_share", "margin", "rate")
"""Keys of section `fast` in runs of earlier versions, whose recipe `fast` let networks share weights."""

_MOST_MISTAKES = 10
"""Mistakes that a message lists; of more, it says how many there are."""
_MOST_LEVELS = 20


def load_config(
    path: str | Path | None = None,
    *,
    values: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> OptimizeConfig:
    """Return the config of a YAML file, overridden by `values` (nested or dotted keys), then by `key=value` settings.

    Raises `ConfigError` that lists every mistake at once, each with the nearest known name.
    """
    merged: dict[str, Any] = {} if path is None else read_yaml(Path(path))
    mistakes: list[str] = []
    for key, value in (values or {}).items():
        if isinstance(key, str) and key.count(".") < _MOST_LEVELS:
            merged = _assign(merged, key.split("."), value)
        else:
            mistakes.append(f"the key {shown(key)} is no name of a config key, as in training.epochs")
    for setting in settings:
        try:
            path_in, value = _split_setting(setting)
        except ConfigError as error:
            mistakes.append(str(error))
        else:
            merged = _assign(merged, path_in, value)
    try:
        config = OptimizeConfig.model_validate(merged)
    except ValidationError as error:
        mistakes += _describe_errors(error.errors(), known=_known_keys(merged))
    if mistakes:
        # with values or settings besides, a mistake may not be the file's
        source = f"{path}: " if path is not None and not values and not settings else ""
        raise ConfigError(source + _join_mistakes(mistakes))
    return config


def resolve_config(
    *,
    model: str | nn.Module | None = None,
    data: Any = None,
    config: str | Path | OptimizeConfig | None = None,
    settings: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> OptimizeConfig:
    """Return one config from a file or object, overridden by `values`, by model and data, then by settings.

    Raises `ConfigError` that lists every mistake at once.
    """
    overrides: dict[str, Any] = {}
    if isinstance(config, OptimizeConfig):
        overrides |= config.model_dump(mode="json")
        config = None
    overrides |= dict(values or {})
    if model is not None:
        overrides["model.name"] = model if isinstance(model, str) else f"{FROM_PYTHON}{type(model).__name__}"
    if data is not None:
        overrides["data.name"] = data if isinstance(data, str) else f"{FROM_PYTHON}{type(data).__name__}"
    return load_config(config, values=overrides, settings=settings)


def read_run_config(folder: Path) -> OptimizeConfig:
    """Return the config of a run folder. Raises `UserError` where it has none, or another than the run began with."""
    read_config_text(folder)
    return _read_run_file(folder / CONFIG)[0]


def differing_keys_of_run(path: Path, config: OptimizeConfig) -> list[str]:
    """Return what makes a config differ from that of a run's config.yaml, as `differing_keys` does."""
    found, gone = _read_run_file(path)
    without = [f"fast.{key} ({value!r}, now gone)" for key, value in gone.items()]
    return [*differing_keys(found, config), *(without if found.recipe == "fast" else [])]


def _read_run_file(path: Path) -> tuple[OptimizeConfig, dict[str, Any]]:
    """Return the config of a run, which may be of an earlier version, and the keys of `fast` that are gone since."""
    merged = read_yaml(path)
    fast = merged.get("fast")
    if not isinstance(fast, dict) or fast.keys().isdisjoint(_GONE):
        return load_config(path), {}
    merged["fast"] = {key: value for key, value in fast.items() if key not in _GONE}
    return load_config(values=merged), {key: value for key, value in fast.items() if key in _GONE}


def config_of_network(folder: Path) -> OptimizeConfig | None:
    """Return the config of the run that a network's folder lies in; None where it lies in none.

    Raises `UserError` where the run's config is missing, or not as the run began.
    """
    run = run_of(folder.resolve())
    if run is None or not any((run / name).exists() for name in (CONFIG, ENVIRONMENT, LOCK, CANDIDATES_RECORD)):
        return None
    return read_run_config(run)


def config_for_network(
    folder: Path,
    *,
    config: Path | None = None,
    data: str | None = None,
    settings: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    is_given: bool = False,
) -> OptimizeConfig:
    """Return the config of the run that a network's folder lies in, or of the given file, overridden by the rest.

    Raises `UserError` for a folder outside of a run, of which the data are not known, unless `data`, a `config` or a
    setting names them, or they are given (`is_given`) from Python.
    """
    found = config if config is not None else config_of_network(folder)
    named = is_given or data is not None or any(text.lstrip().startswith("data") for text in settings)
    if found is None and not named:
        check_network_folder(folder)
        raise UserError(
            f"{folder} lies in no run, so that its data set is not known; give --data, or --config with the run's"
            f" {CONFIG}"
        )
    return resolve_config(data=data, config=found, settings=settings, values=values)


def _split_setting(setting: str) -> tuple[list[str], Any]:
    key, separator, text = setting.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path) or len(path) > _MOST_LEVELS:
        raise ConfigError(f"setting {shown(setting)} is not key=value, as in training.epochs=2")
    try:
        return path, parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"setting {shown(setting)}: {describe_yaml_error(error)}") from error


def dump_config(config: OptimizeConfig) -> str:
    """Return the config as YAML, every key with its value."""
    return dump_yaml(config.model_dump(mode="json"))


def differing_keys(a: OptimizeConfig, b: OptimizeConfig) -> list[str]:
    """Return the dotted keys in which two configs differ and which change results, with both values."""
    flat_a, flat_b = _flatten(a.model_dump(mode="json")), _flatten(b.model_dump(mode="json"))
    return [
        f"{key} ({shown(flat_a.get(key))}, now {shown(flat_b.get(key))})"
        for key in flat_a | flat_b
        if flat_a.get(key) != flat_b.get(key)
        and not any(key == free or key.startswith(free + ".") for free in RESULT_FREE)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _assign(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return `values` with one dotted key set; a plain `model: resnet18` becomes `model.name` next to others."""
    key, *rest = path
    inside = values.get(key)
    if isinstance(inside, str) and rest:
        inside = {"name": inside}
    section = dict(inside) if isinstance(inside, Mapping) else {}
    if rest:
        value = _assign(section, rest, value)
    elif isinstance(value, Mapping):
        for inner, inner_value in value.items():
            section = _assign(section, [inner], inner_value)
        value = section
    elif key in _NAMED_SECTIONS and isinstance(value, str) and section:
        value = {**section, "name": value}
    return {**values, key: value}


def _known_keys(values: Mapping[str, Any]) -> list[str]:
    """Return all dotted keys of a config with the method that these values name, or that follows from them."""
    method, cost = values.get("method"), values.get("cost")
    deciding = {
        "method": {"name": method.get("name") if isinstance(method, Mapping) else method},
        "recipe": values.get("recipe", "fast"),
        "cost": {"objective": cost.get("objective", "relus") if isinstance(cost, Mapping) else "relus"},
    }
    try:
        usual = OptimizeConfig.model_validate(deciding)
    except ValidationError:  # there is no such method, recipe or objective
        usual = OptimizeConfig()
    return list(_flatten(usual.model_dump(mode="json")))


def _describe_errors(errors: Sequence[ErrorDetails], *, known: Sequence[str]) -> list[str]:
    # a list whose items are wrong is reported as too short besides
    broken = {tuple(error["loc"][:-1]) for error in errors}
    told = [e for e in errors if not (e["type"] == "too_short" and tuple(e["loc"]) in broken)]
    # finding the nearest key takes its time, so it is done for those that are shown
    return [_describe_error(e, known) if i < _MOST_MISTAKES else e["type"] for i, e in enumerate(told)]


def _describe_error(error: ErrorDetails, known: Sequence[str]) -> str:
    where = ".".join(one_line(part, 60) for part in error["loc"] if isinstance(part, str))
    where += "".join(f"[{part}]" for part in error["loc"] if isinstance(part, int))
    if error["type"] == "extra_forbidden":
        return _describe_unknown_key(where, known)
    if error["type"] in ("model_type", "model_attributes_type"):
        plain = "a name, or " if where in _NAMED_SECTIONS else ""
        return f"{where} is {shown(error['input'])}; it needs {plain}keys and values, as in {where}: {{...}}"
    rule = error["msg"].removeprefix("Value error, ").removesuffix(" after validation, not 0")
    rule = one_line(f"{rule[0].lower()}{rule[1:]}".replace("tuple", "list"), 400)
    return f"{where} is {shown(error['input'])}: {rule}"


def _methods_with(option: str) -> list[str]:
    """Return the names of the built-in methods that have an option."""
    from deepreduce.methods.registry import built_in_methods, method_named

    return [name for name in built_in_methods() if option in method_named(name).Options.model_fields]


def _describe_unknown_key(where: str, known: Sequence[str]) -> str:
    """Describe a key that is not known: where it belongs or the nearest key, then the keys of its section."""
    section, _, name = where.rpartition(".")
    by_name: dict[str, list[str]] = {}
    for key in known:
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    beside = [key.removeprefix(f"{section}.") for key in known if key.startswith(f"{section}.")]
    if not section:
        beside = list(OptimizeConfig.model_fields)
    near = name if name in by_name else nearest_name(name, beside if section else [*beside, *by_name])
    if near in beside:
        nearest = [f"{section}.{near}" if section else near]
    else:
        nearest = by_name.get(near or "", [])
    hint = f"did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    if section == "method" and (others := _methods_with(name)):
        hint = f"it is an option of {' and '.join(others)}, so give method.name as well; "
    return f"unknown config key {where!r}; {hint}known{' in ' + section if section else ''}: {', '.join(beside)}"


def _join_mistakes(mistakes: Sequence[str]) -> str:
    if len(mistakes) == 1:
        return mistakes[0]
    listed = "; ".join(f"({i}) {text}" for i, text in enumerate(mistakes[:_MOST_MISTAKES], start=1))
    more = f", of which the first {_MOST_MISTAKES} are" if len(mistakes) > _MOST_MISTAKES else ""
    return f"{len(mistakes):,} mistakes{more}: {listed}"
