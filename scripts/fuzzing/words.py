"""Inputs that are text: config files, settings, and command lines."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer.main
import yaml
from pydantic import BaseModel

from deepreduce.cli.main import app
from deepreduce.config.load import differing_keys, dump_config, load_config
from deepreduce.config.schema import OptimizeConfig
from deepreduce.config.yaml_text import parse_yaml
from deepreduce.errors import ConfigError
from deepreduce.methods.registry import method_named, method_names
from fuzzing.damage import PLAUSIBLE, TEXTS, VALUES, changed_bytes, changed_value
from fuzzing.harness import Input

TINY: dict[str, Any] = {
    "model": {"name": "resnet20", "width": 4, "blocks": [1, 1, 1]},
    "data": {"name": "digits", "train_limit": 300, "test_limit": 100},
    "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.1, "precision": "fp32"},
    "method": {"rhos": [1.0], "cull_order": ["S1"]},
    "threads": 1,
    "side_by_side": 1,
}
"""A config so small that a dry run takes a fraction of a second."""


def keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of the schema, sections among them."""
    for name, inner in section.model_fields.items():
        yield prefix + name
        if isinstance(inner.annotation, type) and issubclass(inner.annotation, BaseModel):
            yield from keys_of(inner.annotation, f"{prefix}{name}.")


KEYS = [
    *keys_of(OptimizeConfig),
    *{f"method.{key}" for name in method_names() for key in method_named(name).Options.model_fields},
]
KEYS.sort()


def _read_back(path: Path) -> str:
    config = load_config(path)
    again = path.with_suffix(".again")
    again.write_text(dump_config(config), encoding="utf-8")
    if load_config(again) != config:
        return f"written and read again, it differs: {differing_keys(config, load_config(again))}"
    return ""


class Configs:
    """YAML files: damaged ones, and well-formed ones with hostile keys and values; each is planned, not trained."""

    name = "configs"

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, dice: random.Random, folder: Path) -> Input:
        path = folder / "config.yaml"
        path.write_bytes(self._content(dice))
        return Input(
            text=repr(path.read_bytes()[:200]),
            steps=[["optimize", "--config", str(path), "--dry-run"]],
            silent=lambda found: _read_back(path),
        )

    def _content(self, dice: random.Random) -> bytes:
        good = yaml.safe_dump(TINY).encode()
        kind = dice.randrange(5)
        if kind == 0:
            return changed_bytes(dice, good)
        if kind == 1:
            lines = good.decode().splitlines()
            for _ in range(dice.choice([1, 1, 2, 5])):
                place = dice.randrange(len(lines))
                key = lines[place].partition(":")[0]
                lines[place] = f"{key}: {dice.choice(TEXTS)}"
            return "\n".join(lines).encode("utf-8", "surrogatepass")
        if kind == 2:
            return self._bomb(dice)
        values: Any = TINY
        for _ in range(dice.choice([1, 1, 1, 3])):
            if kind == 3:
                values = changed_value(dice, values)
            else:
                value = dice.choice(VALUES) if dice.random() < 0.5 else parse_yaml(dice.choice(PLAUSIBLE))
                values = _with(values, dice.choice(KEYS), value)
        return yaml.safe_dump(values, allow_unicode=dice.random() < 0.5).encode("utf-8", "surrogatepass")

    def _bomb(self, dice: random.Random) -> bytes:
        levels, width = dice.randrange(2, 12), dice.randrange(2, 12)
        aliases = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
        many = dice.choice([10, 3_000])
        choices = [
            "\n".join(["a0: &a0 [x]", *aliases]),
            "\n".join(f"key{i}: {i}" for i in range(many)),
            "\n".join(f"{' ' * i}k:" for i in range(min(many, 500))),
            "model: " + "[" * many + "]" * many,
            "seed: " + "9" * many,
            "x" * (100 * many),
            "training: {" + ", ".join(f"k{i}: {i}" for i in range(many)) + "}",
        ]
        return dice.choice(choices).encode()


def _with(values: Any, key: str, value: Any) -> Any:
    name, _, rest = key.partition(".")
    if not isinstance(values, dict):
        return values
    if not rest:
        return {**values, name: value}
    inside = values.get(name)
    return {**values, name: _with(inside if isinstance(inside, dict) else {}, rest, value)}


class Settings:
    """Settings of the command line, KEY=VALUE: one to three of them over a small config."""

    name = "settings"

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, dice: random.Random, folder: Path) -> Input:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(TINY))
        draw = self._taken if dice.random() < 0.5 else self._any
        given = [draw(dice) for _ in range(dice.choice([1, 1, 1, 2, 3]))]
        words = [word for setting in given for word in ("--set", setting)]
        return Input(text=repr(given)[:400], steps=[["optimize", "--config", str(path), "--dry-run", *words]])

    def _any(self, dice: random.Random) -> str:
        return f"{self._key(dice)}={self._value(dice)}"

    def _taken(self, dice: random.Random) -> str:
        """Return a setting that the schema takes, most of the time, so that what comes after it is reached."""
        key = dice.choice(KEYS)
        for _ in range(40):
            setting = f"{key}={dice.choice(PLAUSIBLE)}"
            with contextlib.suppress(ConfigError):
                load_config(settings=[setting])
                break
        return setting

    def _key(self, dice: random.Random) -> str:
        key = dice.choice(KEYS)
        return (
            key
            if dice.random() < 0.85
            else dice.choice(["", ".", f"{key}.", f"{key}.x", key[:-1], key.upper(), "x" * 300])
        )

    def _value(self, dice: random.Random) -> str:
        if dice.random() < 0.6:
            return dice.choice(PLAUSIBLE)
        if dice.random() < 0.5:
            return dice.choice(TEXTS)
        value = dice.choice(VALUES)
        return str(value) if not isinstance(value, int) or abs(value) < 10**300 else "9" * 400


class CommandLines:
    """Command lines: every option of every command, with hostile values, in any number and order."""

    name = "cli"

    def prepare(self, folder: Path) -> None:
        self._commands = dict(self._walk(typer.main.get_command(app)))  # type: ignore[arg-type]

    def _walk(self, group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from self._walk(command, f"{prefix}{name} ")
            else:
                yield prefix + name, command

    def make(self, dice: random.Random, folder: Path) -> Input:
        name, command = dice.choice(list(self._commands.items()))
        words: list[str] = []
        for parameter in command.params:
            option = parameter.opts[0]
            if parameter.name == "help" or not (parameter.required or dice.random() < 0.35):
                continue
            if getattr(parameter, "is_flag", False):
                words.append(option)
                continue
            value = self._value(dice, option)
            words += [value] if not option.startswith("--") else [option, value]
        if name == "optimize":
            words += ["--dry-run", "--set", "model.width=2", "--set", "threads=1"]
        if name == "private calibrate":
            words += ["--protocol", "unknown"]  # it would measure for minutes
        return Input(text=repr([*name.split(), *words])[:400], steps=[[*name.split(), *words]])

    def _value(self, dice: random.Random, option: str) -> str:
        good = {"--model": "resnet20", "--data": "digits", "--to": "onnx", "--connect": "127.0.0.1:1", "--port": "0"}
        if option in good and dice.random() < 0.5:
            return good[option]
        if option == "--set":
            return f"{dice.choice(KEYS)}={dice.choice(TEXTS)}"
        choices = (*TEXTS, *(str(v) for v in VALUES if not isinstance(v, int) or abs(v) < 10**300))
        return dice.choice(choices).replace("\0", "")
