"""Whatever the command line prints, a terminal only shows."""

from __future__ import annotations

import pytest

from deepreduce.cli.main import MISTAKE, run_command
from deepreduce.cli.output import say


def test_lines_are_printed_with_their_escapes_shown(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\x1b[2J\ntwo")
    say("\udcff", to_errors=True)
    assert capsys.readouterr() == ("one\\x1b[2J\ntwo\n", "\\udcff\n")


@pytest.mark.parametrize(
    "words",
    [["analyze", "--model"], ["evaluate"], ["private", "query", "--image", "3", "--connect"], ["optimize", "--set"]],
    ids=lambda words: words[0],
)
def test_a_mistake_shows_the_value_and_not_its_escapes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*words, "a\x1b[2J\udcff\u202e"]) == MISTAKE
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and said.rstrip("\n").isprintable() and "\\x1b[2J" in said
