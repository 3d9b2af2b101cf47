"""Every option of every command takes a value or refuses it in one line, whatever the value is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from deepreduce.cli.main import app, run_command

BASES: dict[str, list[str]] = {
    # words with which a command is quick, and looks at its options first; nothing is trained, served or downloaded
    "analyze": ["--model", "resnet20", "--width", "2"],
    "optimize": ["--dry-run", "--set", "recipe=unknown"],
    "evaluate": ["nowhere"],
    "export": ["nowhere", "--to", "onnx", "--out", "x.onnx"],
    "plot": ["nowhere"],
    "report": ["nowhere"],
    "private run": ["nowhere", "--ports", "1"],
    "private serve": ["nowhere", "--port", "0"],
    "private query": ["--connect", "127.0.0.1:1", "--image", "nowhere.npy"],
    "private calibrate": ["--repeats", "0"],
}
WITHOUT_VALUES = {"models", "methods"}

HOSTILE = (
    "", " ", "-1", "1.5", "nan", "9" * 5_000, "1000000000", "../" * 2_000, "\x1b[31mred\x07", "a\nb", "\udcff", "\0",
    "\u202e", "!!int x", "--", "/dev/null/x", "a..b:1", ".",
)  # fmt: skip


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


ALL = dict(commands(typer.main.get_command(app)))  # type: ignore[arg-type]
OPTIONS = [
    (name, parameter.opts[0])
    for name, command in ALL.items()
    for parameter in command.params
    if parameter.name != "help" and not getattr(parameter, "is_flag", False)
]


def test_every_command_has_words_with_which_it_is_quick() -> None:
    assert set(ALL) == set(BASES) | WITHOUT_VALUES and len(OPTIONS) > 50


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_an_option_takes_a_value_or_refuses_it_in_one_line(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for value in HOSTILE:
        given = [f"{option}={value}"] if option.startswith("--") else [value]
        words = [*command.split(), *BASES[command], *given]
        if not option.startswith("--"):
            words = [*command.split(), value, *BASES[command][1:]]
        code = run_command(words)
        output = capsys.readouterr()
        assert code in (0, 1, 2), (value, output.err)
        if code:
            line = output.err.removesuffix("\n")
            assert line.startswith("deepreduce: ") and line.isprintable() and len(line) < 3_000, value
        output.out.encode()  # can be printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize(
    "words",
    [
        ["analyze", "--csv", ""],
        ["optimize", "--out="],
        ["evaluate", ""],
        ["private", "serve", "x", "--host", ""],
        [""],
    ],
)
def test_an_empty_argument_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words) == 2
    assert capsys.readouterr().err.endswith(" is empty; leave it out, or give a value\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["analyze", "--input-size", "-1"], "the input size is -1; give 1 to 8,192"),
        (["analyze", "--input-size", "1000000000"], "the input size is 1000000000; give 1 to"),
        (["analyze", "--width", "100000000"], "width is 100000000; give 1 to 16,384"),
        (["analyze", "--num-classes", "99999999999"], "num_classes is 99999999999; give 2 to"),
        (["analyze", "--blocks", "2,2,2,99999999"], "number of blocks is 99999999; give 1 to 500"),
        (["analyze", "--blocks", ","], "--blocks is ','; give whole numbers"),
        (["optimize", "--dry-run", "--set", "data.image_size=100000"], "data.image_size is 100000: input should be less"),
        (["optimize", "--dry-run", "--set", "threads=1000000"], "threads is 1000000: input should be less"),
        (["optimize", "--dry-run", "--set", "distill.remember_gb=1e305"], "distill.remember_gb is 1e+305: input"),
        (["optimize", "--dry-run", "--set", "training.batch_size=1500"], "fewer than a batch of 1,500; lower"),
        (["optimize", "--dry-run", "--set", "model.width=16384"], "of memory, and "),
        (["optimize", "--dry-run", "--set", "data.image_size=8192"], "of memory, and "),
        (["optimize", "--dry-run", "--set", "seed=010", "--set", "seed=1:30"], "seed is '1:30'"),
    ],
)  # fmt: skip
def test_a_number_that_no_machine_bears_is_refused_by_its_rule(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2
    assert message in capsys.readouterr().err


def test_a_full_standard_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        code = "import sys; from deepreduce.cli.main import main; sys.argv[1:] = ['--version']; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1 and done.stderr == "deepreduce: No space left on device\n"
