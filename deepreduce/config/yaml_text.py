"""Read and write YAML 1.2's core schema: plain values without tags, aliases and surprises.

PyYAML follows YAML 1.1, where 010 is eight, 1:30 is ninety, `no` is false and 5e-4 is a text. A config needs neither
tags nor aliases, and a few lines of aliases can stand for gigabytes, so both are refused.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from deepreduce.errors import ConfigError
from deepreduce.utils.text import one_line, shown

_MOST_BYTES = 256 * 1024
_MOST_LEVELS = 20
_MOST_DIGITS = 100


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises `ConfigError` where it is missing, malformed or no mapping."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)  # it may be a device without an end
    except OSError as error:
        raise ConfigError(f"config {path} can't be read: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"config {path} has more than {_MOST_BYTES // 1024} KiB; is it a config?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path} is not text in UTF-8") from error
    try:
        found = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not YAML: {describe_yaml_error(error)}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(
            f"config {path} holds a {type(found).__name__}; it needs keys and values, as in 'model: resnet18'"
        )
    return found


def parse_yaml(text: str) -> Any:
    """Return the value of one YAML document: None, bool, int, float, text, lists and mappings with keys of text.

    Raises `yaml.YAMLError`.
    """
    if len(text) > _MOST_BYTES:
        raise yaml.YAMLError(f"it has {len(text):,} characters; give at most {_MOST_BYTES:,}")
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(r"an escape such as \UFFFFFFFF in it names no character") from error


def dump_yaml(value: Any) -> str:
    """Return plain values as YAML, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)


def describe_yaml_error(error: yaml.YAMLError) -> str:
    """Return what is wrong, and where, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        mark = error.problem_mark
        return one_line(f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}", 300)
    return one_line(str(error), 300)


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core schema.

    Refuses tags, anchors and aliases, keys that are given twice or are no text, deep nesting, and long numbers.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _mistake("anchors (&) and aliases (*) are not supported; write the value out, or quote it", event)
        if event.tag is not None:
            raise _mistake("tags (!) are not supported; leave the tag out, or quote the value", event)
        if self._level >= _MOST_LEVELS:
            raise _mistake(f"it is nested more than {_MOST_LEVELS} levels deep", event)
        self._level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._level -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _mistake("a list or a mapping is no key; keys are names such as 'model' and 'data'", key)
            if key.tag != _TEXT:
                raise _mistake(f"the key {one_line(key.value, 60)} is no text; keys are names such as 'model'", key)
            if key.value in found:
                raise _mistake(f"the key {shown(key.value)} is given twice", key)
            found[key.value] = self.construct_object(value, deep=deep)
        return found

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """Return the value of digits: 010 is ten, 0o10 is eight, 0x10 is sixteen."""
        if len(node.value) > _MOST_DIGITS:
            raise _mistake(f"a number of {len(node.value):,} digits; give at most {_MOST_DIGITS}", node)
        base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
        return int(node.value, base)


class _Dumper(yaml.SafeDumper):
    """Writes YAML; quotes texts that YAML 1.1 or 1.2 reads as something else, or whose line breaks would change."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        broken = data.splitlines() not in ([data], [])
        return self.represent_scalar(_TEXT, data, style='"' if broken else None)


def _mistake(problem: str, where: yaml.Event | yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, where.start_mark)  # type: ignore[arg-type]


_TEXT = "tag:yaml.org,2002:str"
_CORE = {
    "null": (r"(?:~|null|Null|NULL|)\Z", [*"~nN", ""]),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)\Z", [*"tTfF"]),
    "int": (r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", [*"-+0123456789"]),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        [*"-+.0123456789"],
    ),
}
"""Kinds of plain values in YAML 1.2's core schema: pattern and first characters; the first that fits decides."""

_Loader.yaml_implicit_resolvers = {}
for _kind, (_pattern, _first) in _CORE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)
_Dumper.add_representer(str, _Dumper.represent_str)
