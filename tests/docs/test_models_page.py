"""docs/models.md claims what the issue of any network asks for; scripts/torchvision_table.py writes it."""

from __future__ import annotations

import pytest
import torchvision

from tests.helpers import REPOSITORY

PAGE = REPOSITORY / "docs" / "models.md"
ROWS = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| network")]  # fmt: skip


def test_every_classification_network_of_torchvision_has_a_row() -> None:
    assert [row[0] for row in ROWS] == torchvision.models.list_models(module=torchvision.models)


def test_nothing_that_was_tried_fails() -> None:
    assert not [row[0] for row in ROWS if "fails" in row]


def test_every_network_of_relus_is_culled_thinned_and_scaled_whole() -> None:
    relus_only = [row for row in ROWS if row[2] != "0" and row[4].split(" x")[0] in ("-", "max_pool")]
    assert len(relus_only) >= 40
    for row in relus_only:
        shares = [int(cell.removesuffix("%")) for cell in row[5:9]]  # a star or a word would be no number
        assert all(0 < share < 100 for share in shares), row


@pytest.mark.slow
def test_the_page_is_written_by_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAGE.parents[1] / "scripts"))
    import torchvision_table

    found = torchvision_table.measure("squeezenet1_1")
    (row,) = [row for row in ROWS if row[0] == "squeezenet1_1"]
    assert torchvision_table._row(found) == "| " + " | ".join(row) + " |"
