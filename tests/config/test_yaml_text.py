"""YAML 1.2's plain values are read, all else of YAML is refused in one line, quickly and in little memory."""

from __future__ import annotations

import math
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepreduce.config.load import load_config
from deepreduce.config.yaml_text import describe_yaml_error, dump_yaml, parse_yaml, read_yaml
from deepreduce.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("0o10", 8), ("0x10", 16), ("-7", -7), ("+7", 7), ("0", 0),
        ("1:30", "1:30"), ("1_000", "1_000"), ("0b11", "0b11"), ("12:30:45", "12:30:45"),
        ("5e-4", 5e-4), ("1e3", 1e3), (".5", 0.5), ("1.", 1.0), (".inf", math.inf), ("-.INF", -math.inf),
        ("true", True), ("FALSE", False), ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"),
        ("null", None), ("~", None), ("", None), ("nULL", "nULL"),
        ("2024-12-31", "2024-12-31"), ("=", "="), ("<<", "<<"), ("'010'", "010"), ("\ufeffa", "a"),
        ("{<<: {a: 1}, b: 2}", {"<<": {"a": 1}, "b": 2}),
    ],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = parse_yaml(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("text", ["yes", "010", "1:30", "1e3", "0o17", "2020-01-01", "null", "~", "", ".inf", "0x1"])
def test_a_text_is_written_so_that_readers_of_both_versions_of_yaml_read_it_as_a_text(text: str) -> None:
    dumped = dump_yaml({"key": text, "list": [text]})
    assert parse_yaml(dumped) == yaml.safe_load(dumped) == {"key": text, "list": [text]}


def bomb(levels: int) -> str:
    """Levels of nine aliases each: nine to the power of the levels."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


MALFORMED = {
    "tags": ['!!int ""', "!!bool maybe", "!!timestamp x", "!!binary x", "!x y", "!!str 5", "! 5", "!!python/name:os",
             "!<tag:yaml.org,2002:int> 5", "[!!set {a}]", "{a: !!float x}", "!e!x 1", "!!omap [a: 1]"],
    "aliases": [bomb(3), bomb(9), bomb(30), "&a 5", "*a", "&a [*a]", "{a: &x 1, b: *x}", "[&a {<<: *a}]"],
    "nesting": ["[" * 3_000, "[" * 25 + "]" * 25, "{a: " * 3_000, "- " * 3_000, "\n".join(" " * i + "a:" for i in range(99))],
    "keys": ["{1: 2}", "{true: 1}", "{null: 1}", "{1.5: 1}", "{[a]: 1}", "{{a: 1}: 1}", "? [a]\n: 1", "{a: 1, 'a': 2}",
             "{a: {b: 1, b: 1}}"],
    "numbers": ["9" * 101, "9" * 5_000, "-" + "9" * 5_000, "0x" + "f" * 5_000],
    "characters": ["a\0b", "\x1b[31m", "\ud800", '"\\UFFFFFFFF"', '"\\U00110000"', "\x07", "a: b\n\tc: d"],
    "documents": ["a\n---\nb", "--- a\n...\n--- b", "%YAML 3.0\n---\na", "%YAML 1.2\n%YAML 1.2\n---\na", "@", "`", "%", "a: b: c"],
    "size": ["a" * 300_000, "[" + "a, " * 100_000 + "]"],
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_a_config_does_not_need_is_refused_in_one_line_quickly_and_in_little_memory(
    kind: str, tmp_path: Path
) -> None:
    for text in MALFORMED[kind]:
        begin = time.process_time()
        tracemalloc.start()
        with pytest.raises(yaml.YAMLError) as caught:
            parse_yaml(text)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        message = describe_yaml_error(caught.value)
        assert message.isprintable() and len(message) < 400, text[:40]
        assert peak < 20e6 and time.process_time() - begin < 2, text[:40]
        with pytest.raises(ConfigError):
            load_config(settings=[f"seed={text}"])
        (tmp_path / "c.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ConfigError):
            read_yaml(tmp_path / "c.yaml")


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="has more than 256 KiB"):
        read_yaml(Path("/dev/zero"))


@pytest.mark.parametrize("setting", ["seed=1:30", "seed=1_0:0", "seed=0b11", "training.epochs=1:00"])
def test_sixties_and_other_numbers_of_yaml_1_1_are_no_numbers(setting: str) -> None:
    with pytest.raises(ConfigError, match="should be a valid integer"):
        load_config(settings=[setting])


def test_thousands_of_mistakes_are_one_short_line_with_their_number() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(values={f"key{i}": 1 for i in range(3_000)})
    assert str(caught.value).startswith("3,000 mistakes, of which the first 10 are: (1) unknown config key 'key0'")
    assert len(str(caught.value)) < 5_000 and "(11)" not in str(caught.value)
