"""A network's files: whole or named, and a network is done once its metrics are there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepreduce.errors import CheckpointError
from deepreduce.store.network_folder import NetworkFolder, history_csv
from deepreduce.training import EpochRecord, Snapshot
from deepreduce.utils.records import read_record

RECORDS = (
    EpochRecord(epoch=1, learning_rate=0.1, train_loss=2.5, val_accuracy=None, seconds=1.234),
    EpochRecord(epoch=2, learning_rate=0.05, train_loss=1 / 3, val_accuracy=0.75, seconds=2.0),
)


@pytest.fixture
def entry(tmp_path: Path) -> NetworkFolder:
    return NetworkFolder(path=tmp_path)


def test_a_history_reads_back_and_a_corrupt_one_is_named(tmp_path: Path) -> None:
    entry = NetworkFolder(path=tmp_path)
    entry.finish(weights=None, description={}, metrics={}, history=RECORDS)
    assert entry.history() == tuple(replace(r, seconds=round(r.seconds, 2)) for r in RECORDS)
    for content in ("epoch\n1\n", history_csv(RECORDS) + "three,,,,\n"):
        (tmp_path / "history.csv").write_text(content)
        with pytest.raises(CheckpointError, match=r"history\.csv is not a history"):
            entry.whole_history()
        with pytest.raises(CheckpointError, match=r"history\.csv is not the file that metrics\.json was written"):
            entry.history()


@pytest.mark.parametrize("name", ["model.safetensors", "history.csv"])
def test_a_file_of_another_network_is_named_though_it_is_whole(tmp_path: Path, name: str) -> None:
    for number in (1, 2):
        folder = NetworkFolder.open(tmp_path / str(number))
        folder.finish(weights={"w": torch.full((2,), number)}, description={}, metrics={}, history=RECORDS[:number])
    (tmp_path / "1" / name).replace(tmp_path / "2" / name)
    with pytest.raises(CheckpointError, match=f"{name} is not the file that metrics"):
        folder.weights() if name == "model.safetensors" else folder.history()


def test_metrics_are_written_again_for_the_files_that_are_there(entry: NetworkFolder) -> None:
    with pytest.raises(CheckpointError, match=r"can't be read: No such file"):
        entry.replace_metrics({"a": 2})
    entry.finish(weights={"w": torch.zeros(2)}, description={}, metrics={"a": 1}, history=RECORDS)
    (entry.path / "metrics.json").write_text("damaged")
    entry.replace_metrics({"a": 2})
    assert entry.finished() == {"a": 2}
    assert len(entry.history()) == 2 and entry.weights()


def test_a_history_is_csv_with_nothing_for_what_was_not_measured() -> None:
    assert history_csv(RECORDS).splitlines() == [
        "epoch,learning_rate,train_loss,val_accuracy,seconds",
        "1,0.1,2.5,,1.23",
        "2,0.05,0.3333333333333333,0.75,2.00",
    ]


def test_a_finished_network_has_its_metrics_and_no_state_left(entry: NetworkFolder) -> None:
    entry.save_snapshot(Snapshot(tensors={"w": torch.ones(2)}, values={"step": 3}))
    assert entry.finished() is None
    entry.finish(weights={"w": torch.zeros(2)}, description={"label": "x"}, metrics={"a": 1}, history=RECORDS)
    assert entry.finished() == {"a": 1}
    assert torch.equal(entry.weights()["w"], torch.zeros(2))
    assert entry.snapshot() is None
    entry.clear()
    assert entry.path.is_dir() and not list(entry.path.iterdir())


def test_metrics_are_written_last(entry: NetworkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    replace = os.replace

    def noted(source: Any, target: Any) -> None:
        written.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    entry.finish(weights={"w": torch.zeros(2)}, description={}, metrics={}, history=())
    assert written == ["plan.json", "history.csv", "model.safetensors", "metrics.json"]


def test_a_state_left_by_a_kill_right_after_the_metrics_goes(
    entry: NetworkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    entry.save_snapshot(Snapshot(tensors={"w": torch.ones(2)}, values={"step": 3}))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(NetworkFolder, "_drop_state", killed)
        entry.finish(weights={"w": torch.zeros(2)}, description={}, metrics={"a": 1}, history=())
    assert entry.snapshot() is not None
    assert entry.finished() == {"a": 1}
    assert entry.snapshot() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"null"])
def test_corrupt_metrics_are_named(entry: NetworkFolder, content: bytes) -> None:
    (entry.path / "metrics.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"metrics\.json can't be read"):
        entry.finished()


@pytest.mark.parametrize("keep", [0, 1, 7, 40, -1])
def test_a_truncated_state_or_weights_file_is_named(entry: NetworkFolder, keep: int) -> None:
    entry.finish(weights={"w": torch.zeros(2)}, description={}, metrics={}, history=())
    entry.save_snapshot(Snapshot(tensors={"w": torch.ones(2)}, values={}))
    for name, read in (("model.safetensors", entry.weights), ("training.safetensors", entry.snapshot)):
        path = entry.path / name
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            read()


def test_a_description_is_written_again_only_where_it_is_wrong(
    entry: NetworkFolder, caplog: pytest.LogCaptureFixture
) -> None:
    plan = entry.path / "plan.json"
    entry.finish(weights=None, description={"label": "x"}, metrics={}, history=())
    before = plan.stat().st_ino
    entry.check_description({"label": "x"})
    assert plan.stat().st_ino == before
    assert not caplog.records
    plan.write_text("{")
    entry.check_description({"label": "x"})
    assert read_record(plan) == {"label": "x"}
    assert "plan.json can't be read" in caplog.text
