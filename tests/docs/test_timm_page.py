"""scripts/timm_table.py: its processes and records, and some of timm's networks where timm is installed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
import timm_table as table

NETWORKS = ("resnet18", "mobilenetv2_035", "regnety_002", "densenet121", "repvgg_a0")
"""A plain one; batch-norm and activation in one module, with ReLU6 and ReLU; squeeze-and-excitation; branches."""


def test_a_network_beyond_its_time_or_memory_is_ended_and_said_to_be() -> None:
    begin = time.perf_counter()
    assert table.forked(lambda: time.sleep(60) or {}, gigabytes=8, seconds=0.3)["verdict"] == table.LIMIT
    found = table.forked(lambda: time.sleep(60) or {}, gigabytes=0.001, seconds=60)
    assert found["verdict"] == table.LIMIT and "GB of memory" in found["reason"]
    assert time.perf_counter() - begin < 30


def test_a_network_that_raises_or_kills_its_process_is_a_failure_of_its_own() -> None:
    found = table.forked(lambda: {}["a\nb"], gigabytes=8, seconds=60)
    assert found["verdict"] == table.FAILS and "KeyError" in found["reason"] and "\n" not in found["reason"]
    assert table.forked(lambda: table.os._exit(3), gigabytes=8, seconds=60)["reason"] == "the process died"


def test_records_survive_a_cut_line_and_the_last_of_a_name_counts(tmp_path: Path) -> None:
    records = table.Records(tmp_path / "runs" / "results.jsonl")
    for verdict in (table.REFUSED, table.RIGHT):
        records.add({"name": "net", "verdict": verdict})
    with records.path.open("a", encoding="utf-8") as file:
        file.write('{"name": "cut')
    assert table.Records(records.path).by_name == {"net": {"name": "net", "verdict": table.RIGHT}}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm_is_counted_checked_culled_and_trained(name: str) -> None:
    pytest.importorskip("timm", reason="timm is not installed: pip install 'deepreduce[timm]'")
    described = table.forked(lambda: table.described(name), gigabytes=24, seconds=300)
    found = table.forked(lambda: table.measured(name, described["shape"]), gigabytes=24, seconds=300)
    assert found["verdict"] == table.RIGHT, found["reason"]
    assert found["relu_count"] == described["relus"]
