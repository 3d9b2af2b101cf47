"""The example notebook: stored with its outputs, and still true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import REPOSITORY

nbformat = pytest.importorskip("nbformat")

PATH = REPOSITORY / "docs" / "example.ipynb"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(PATH, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_stored_as_it_ran_from_top_to_bottom(notebook: Any) -> None:
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    kinds = {output.output_type for cell in code_cells(notebook) for output in cell.outputs}
    assert kinds == {"execute_result", "stream"}
    shown = "".join(
        output.data.get("text/html", "") for c in code_cells(notebook) for output in c.outputs if "data" in output
    )
    assert "<table" in shown and "data:image/png;base64," in shown


def test_it_is_small_and_tells_nothing_of_the_machine_it_ran_on() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert len(text) < 300_000
    words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.findall(r"(?:^|[\s\"'(=])(?:/|~/|[A-Z]:\\\\)\w+(?:/\w+)+", words)
    assert "execution" not in {key for cell in nbformat.reads(text, as_version=4).cells for key in cell.metadata}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the Jupyter packages
def test_every_cell_runs_and_the_counts_are_those_that_are_stored(notebook: Any, tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    stored = [cell.outputs for cell in code_cells(notebook)]
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    found = [cell.outputs for cell in code_cells(notebook)]
    assert [[output.output_type for output in outputs] for outputs in found] == [
        [output.output_type for output in outputs] for outputs in stored
    ]
    # the analysis is exact everywhere; accuracies depend on the machine's arithmetic
    assert found[0][0].data["text/html"] == stored[0][0].data["text/html"]
    assert (tmp_path / "runs" / "example" / "frontier.csv").is_file()
