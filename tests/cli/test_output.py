"""Whatever the command line prints, a terminal only shows."""

from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace

import pytest
from torch import Tensor, nn

from deepreduce.cli.main import _progress_shown, run_command
from deepreduce.cli.outcome import MISTAKE
from deepreduce.cli.output import say
from deepreduce.network import analyze_network, trace_network
from deepreduce.observers.progress import ProgressLog
from deepreduce.report.tables import frontier_table
from deepreduce.utils.printable import printable_lines
from tests.helpers.report_examples import candidate, teacher


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


HOSTILE = "cull\x1b[2J\nS1: 99.99 %\u202e"
SHOWN = r"cull\x1b[2J\nS1: 99.99 %\u202e"


def test_the_label_of_a_saved_network_is_one_line_without_escapes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(
        path="run", label=HOSTILE, relu_count=5, val_accuracy=0.5, test_accuracy=0.5, test_images=1
    )
    monkeypatch.setattr("deepreduce.api.evaluate", lambda *args, **options: found)
    monkeypatch.setattr("deepreduce.config.load.config_for_network", lambda *args, **options: None)
    assert run_command(["evaluate", "run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"run: {SHOWN}, 5 ReLUs"


def test_labels_in_tables_progress_and_logs_are_shown_without_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = teacher()
    hostile = dataclasses.replace(candidate(5, 0.3, plan_id="a"), label=HOSTILE)
    table = frontier_table([hostile], teacher=full)
    assert printable_lines(table) == table and r"cull\x1b[2J" in table
    with _progress_shown():
        logging.getLogger("deepreduce.run").warning('dropped "%s"', HOSTILE)
    assert capsys.readouterr().err.splitlines()[-2].endswith(r'WARNING dropped "cull\x1b[2J')
    progress = ProgressLog()
    progress.network_started(SimpleNamespace(label=HOSTILE, folder="a"), number=1, count=1, work=1.0, total=1.0)  # type: ignore[arg-type]
    assert progress._running["a"].title == f"1/1 {SHOWN}"


def test_the_names_of_a_networks_modules_are_shown_without_escapes() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a\x1b[2J", nn.ReLU())

        def forward(self, image: Tensor) -> Tensor:
            return self.get_submodule("a\x1b[2J")(image)  # type: ignore[no-any-return]

    text = analyze_network(trace_network(Named(), (1, 2, 2), name="net\x1b[2J")).to_text()
    assert printable_lines(text) == text
