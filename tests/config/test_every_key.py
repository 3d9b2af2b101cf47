"""Every key of the schema, those of all methods too, refuses in one line what it can't hold, however it is given."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import BaseModel

from deepreduce.api import dry_run
from deepreduce.config.load import load_config
from deepreduce.config.schema import OptimizeConfig
from deepreduce.errors import ConfigError, DeepReduceError
from deepreduce.methods.registry import method_named, method_names
from tests.helpers.runs import TINY


def keys_of(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and prefix + name != "method":
            keys += keys_of(inner, f"{prefix}{name}.")
        keys.append(prefix + name)
    return keys


KEYS = [
    *keys_of(OptimizeConfig),
    *(f"{name}:method.{option}" for name in method_names() for option in method_named(name).Options.model_fields),
]

HOSTILE: tuple[Any, ...] = (
    "", " ", "\0", "\x1b[31m", "a\nb", "\udcff", "x" * 10_000, "../" * 2_000, "nan", "-inf", "1e999", "=", "!!int x", "*a",
    -1, 0, 1, 2**31, 10**30, -(10**400), 0.5, 1e-320, 1e305, math.nan, -math.inf,
    True, None, b"bytes", object(), [], [[]], [None], ["x"] * 9_000, [-1], {}, {"": 1}, {1: 2}, {"x": {"x": {}}},
    {f"k{i}": 1 for i in range(300)}, complex(1, 1), OptimizeConfig,
)  # fmt: skip


def loaded(key: str, value: Any) -> OptimizeConfig | None:
    """The config with one key set; None where that is refused, as it should be."""
    method, _, option = key.rpartition(":")
    try:
        return load_config(values={"method": method, option: value} if method else {option: value})
    except ConfigError as error:
        assert str(error).isprintable() or "\n" not in str(error), key
        assert len(str(error)) < 4_000, key
        return None


@pytest.mark.parametrize("key", KEYS)
def test_a_key_takes_a_value_or_refuses_it_in_one_short_line(key: str) -> None:
    for value in HOSTILE:
        config = loaded(key, value)
        if config is not None:
            assert load_config(values=config.model_dump()) == config


@pytest.mark.parametrize("key", KEYS)
def test_a_setting_takes_a_value_or_refuses_it_in_one_short_line(key: str) -> None:
    method, _, option = key.rpartition(":")
    for text in (
        "",
        "''",
        "[",
        "{a: 1}",
        "[[]]",
        "9" * 5_000,
        ".nan",
        "-.inf",
        "!!int x",
        "&a [*a]",
        "\x1b",
        "\udcff",
        "1:30",
    ):
        try:
            load_config(settings=[*([f"method={method}"] if method else []), f"{option}={text}"])
        except ConfigError as error:
            assert "\n" not in str(error) and len(str(error)) < 4_000, (key, text)


def is_number(key: str) -> bool:
    return any(loaded(key, value) is not None for value in (0.5, 1, 100)) and loaded(key, "a text") is None


NUMBERS = [key for key in KEYS if is_number(key)]


def test_numbers_are_found_among_the_keys() -> None:
    assert {"seed", "training.epochs", "distill.remember_gb", "levers:method.gain", "data.image_size"} <= set(NUMBERS)


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_has_a_highest_value(key: str) -> None:
    for value in (10**18, 1e18, 10**400):
        assert loaded(key, value) is None
        assert loaded(key, [value]) is None  # of a list of numbers


LARGE = (1e15, 10**12, 1e9, 10**9, 1e6, 2**31 - 1, 16_384, 8_192, 1_024, 500, 128, 10, 3, 1, 0.999, 0.5, [1.0] * 16)


@pytest.mark.slow
@pytest.mark.parametrize("key", NUMBERS)
def test_the_largest_and_smallest_values_that_a_key_takes_are_planned_or_refused_in_one_line(key: str) -> None:
    method, _, option = key.rpartition(":")
    small = (-1e15, -1, 0, 1e-300, 1e-9, 1e-3, 0.01, 1, 3)
    for values in (LARGE, small):
        value = next(value for value in values if loaded(key, value) is not None)
        given = {name: dict(keys) if isinstance(keys, dict) else keys for name, keys in TINY.items()}
        if method:
            given["method"] = {"name": method}
        try:
            dry_run(load_config(values={**given, option: value}))
        except DeepReduceError as error:
            assert "\n" not in str(error) and len(str(error)) < 4_000, (key, value)
