"""Ways to damage bytes, files and values, drawn at random."""

from __future__ import annotations

import math
import os
import random
import shutil
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    "", " ", "x", "../../x", "/", ".", "nan", "-inf", "1e999", "010", "1:30", "yes", "~", "null", "S1", "S9", "relu", "=", "[",
    "\x1b[31m", "\u202e", "a" * 300, "a" * 9_000, -1, 0, 1, 2, 3, 7, 64, 1_000, 2**31, 2**63, 10**30, -(10**30), 10**400, 0.5,
    -0.5, 0.3, 1e-320, 1e305, math.nan, math.inf, -math.inf, True, False, None, [], [[]], [None], [1, 2], [0.5, 1], ["S1"],
    [1.0] * 40, {}, {"a": 1}, {"name": "x"}, {"": {}}, [[[[[]]]]],
)  # fmt: skip

TEXTS = (
    "", "''", "[", "]", "{", "{a: 1}", "[1, 2]", "!!int \"\"", "!!bool maybe", "!!timestamp x", "!!python/name:os.x", "&a [*a]",
    "*a", "<<", "? [a]\n: b", "a: b: c", "|", ">", "- a\n- b", "---", "...", "%YAML 3.0", "\t", "\x00", "\x07", "\ufeff", "\udcff",
    "\\", "\"\\ud800\"", "\"\\UFFFFFFFF\"", "9" * 400, "0x" + "f" * 400, "1_000", "1__0", "0b1", "0o17", "1e3", ".inf", "-.INF", ".nan",
    "2024-01-01", "on", "Off", "NULL", "@", "`", "#", "[" * 500, "{a: " * 500, "'" * 99, "1.5", "-1", "1e-400", "🙂",
)  # fmt: skip


PLAUSIBLE = (
    "0", "1", "2", "3", "5", "8", "16", "100", "150", "0.5", "0.25", "0.1", "0.01", "1e-3", "1e3", "1e6", "1e-9", "1,0.5",
    "1,1", "2,2,2", "[1,1,1]", "[[1,1,1]]", "true", "false", "null", "S1", "S1,S2", "S2,S3", "both", "last", "difference", "levers",
    "deepreduce", "relus", "latency", "bytes", "cheetah", "delphi", "lan", "wan", "delphi-lan", "cheetah-wan,delphi-lan", "paper",
    "fast", "fp32", "bf16", "cpu", "cpu:1", "cuda", "digits", "cifar10", "resnet18", "resnet20", "vgg16_bn", "mobilenet_v2",
    "wrn22_8", "tensorboard", "{S1: relu, S2: 'stage*'}", "{A: '*'}", "a title $x^2", "$\\frac{", "config.yaml",
)  # fmt: skip
"""Values that some key takes, so that other code than the schema's meets what is odd together."""


def changed_bytes(dice: random.Random, content: bytes) -> bytes:
    """Return the bytes with a bit flipped, a run overwritten, cut out or repeated, or with an end cut off."""
    if not content:
        return bytes(dice.randrange(256) for _ in range(dice.randrange(40)))
    place = dice.randrange(len(content))
    length = min(dice.choice([1, 1, 2, 8, 64]), len(content) - place)
    match dice.randrange(8):
        case 0 | 1 | 2:
            flipped = bytearray(content)
            flipped[place] ^= 1 << dice.randrange(8)
            return bytes(flipped)
        case 3:
            return content[:place] + bytes(dice.randrange(256) for _ in range(length)) + content[place + length :]
        case 4:
            return content[:place]
        case 5:
            return content[:place] + content[place + length :]
        case 6:
            return content[:place] + content[place : place + length] * 3 + content[place + length :]
        case _:
            return content + bytes(dice.randrange(256) for _ in range(length))


def changed_value(dice: random.Random, value: Any) -> Any:
    """Return JSON values with one of them, at a random place, replaced, removed, added or nudged."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        match dice.randrange(12):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, dice.choice(["extra", "", "name", f"{key}x"]): dice.choice(VALUES)}
            case 2:
                other = dice.choice(list(value))
                return {**value, key: value[other], other: value[key]}
            case _:
                return {**value, key: changed_value(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.9:
        place = dice.randrange(len(value))
        match dice.randrange(10):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
            case _:
                return [*value[:place], changed_value(dice, value[place]), *value[place + 1 :]]
    if dice.random() < 0.5 and isinstance(value, (int, float)) and not isinstance(value, bool):
        return value + dice.choice([1, -1]) if isinstance(value, int) else value * dice.choice([1.001, 0.5, -1])
    if dice.random() < 0.5 and isinstance(value, str) and value:
        place = dice.randrange(len(value))
        return value[:place] + dice.choice("0123456789abcdefSxyz./") + value[place + 1 :]
    return dice.choice(VALUES)


def damage_file(dice: random.Random, path: Path, *, others: list[Path]) -> str:
    """Damage a file on disk, or what its name means; return what was done."""
    match dice.randrange(12):
        case 0:
            path.unlink()
            return "removed"
        case 1:
            path.write_bytes(b"")
            return "emptied"
        case 2:
            path.unlink()
            path.mkdir()
            return "replaced by a folder"
        case 3:
            path.unlink()
            target = dice.choice(["nowhere", str(path), "/dev/null", "..", str(dice.choice(others))])
            path.symlink_to(target)
            return f"replaced by a link to {target}"
        case 4:
            other = dice.choice(others)
            if other != path and other.is_file():
                shutil.copy(other, path)
            return f"replaced by {other.name}"
        case 5:
            os.chmod(path, 0)
            return "made unreadable"
        case _:
            content = path.read_bytes()
            path.write_bytes(changed_bytes(dice, content))
            return "bytes changed"
