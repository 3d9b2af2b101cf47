"""The folder of one network of a run: its files, and which of them say that the network is done."""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepreduce.errors import CheckpointError
from deepreduce.store.description import as_written
from deepreduce.store.names import HISTORY, MASKS, METRICS, PLAN, STATE, WEIGHTS
from deepreduce.store.sealed import read_run_record
from deepreduce.training import EpochRecord, Snapshot
from deepreduce.utils.files import read_tensors, tensors_as_bytes, write_bytes, write_tensors, writing
from deepreduce.utils.records import digest_of, write_record

_FILES = "files"
"""The key of metrics.json that holds the hashes of the files that belong to it, by name."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NetworkFolder:
    """The files of one network of the run: teacher, probe or candidate."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> NetworkFolder:
        """Return the folder at `path`; create it where it does not exist."""
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path=path)

    def finished(self) -> dict[str, Any] | None:
        """Return the metrics of a network that is done, else None. Raises `CheckpointError` for a corrupt file.

        Removes the snapshot that a process leaves behind when it is killed right after writing the metrics.
        """
        if not (self.path / METRICS).exists():
            return None
        metrics = read_run_record(self.path / METRICS)
        metrics.pop(_FILES, None)
        self._drop_state()
        return metrics

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights by name.

        Raises `CheckpointError` where they are missing or corrupt, or not those that the metrics were measured of.
        """
        weights = self.whole_weights()
        self._check_file(WEIGHTS)
        return weights

    def whole_weights(self) -> dict[str, Tensor]:
        """Return the weights in the folder, whatever the metrics say. Raises `CheckpointError` for a corrupt file."""
        return read_tensors(self.path / WEIGHTS)[0]

    def finish(
        self,
        *,
        weights: Mapping[str, Tensor] | None,
        description: Mapping[str, Any],
        metrics: Mapping[str, Any],
        history: Sequence[EpochRecord],
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write all files of a network that is done, metrics last (`weights` None: the training failed).

        `masks` are those of the plan in the description (`ReductionPlan.mask_tensors`).
        """
        self._write_description(description, masks or {})
        files = {HISTORY: history_csv(history).encode()}
        if weights is not None:
            files[WEIGHTS] = tensors_as_bytes(weights, {})
        for name, content in files.items():
            write_bytes(self.path / name, content)
        self._write_metrics(metrics, {name: digest_of(content) for name, content in files.items()})
        self._drop_state()

    def replace_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of a network again, where its weights and history are there but its metrics are corrupt.

        Raises `CheckpointError` where one of these is missing.
        """
        digests = {name: self._digest(name) for name in (HISTORY, WEIGHTS)}
        self._write_metrics(metrics, digests)

    def _write_metrics(self, metrics: Mapping[str, Any], digests: Mapping[str, str]) -> None:
        write_record(self.path / METRICS, {**metrics, _FILES: digests})

    def _digest(self, name: str) -> str:
        try:
            return digest_of((self.path / name).read_bytes())
        except OSError as error:
            raise CheckpointError(f"{self.path / name} can't be read: {error.strerror or error}") from error

    def _check_file(self, name: str) -> None:
        """Raise `CheckpointError` where the file is not the one that the metrics were written with."""
        if not (self.path / METRICS).exists():
            return
        digests = read_run_record(self.path / METRICS).get(_FILES, {})
        known = digests.get(name) if isinstance(digests, dict) else ""
        if known is not None and known != self._digest(name):
            raise CheckpointError(f"{self.path / name} is not the file that {METRICS} was written with")

    def _drop_state(self) -> None:
        with suppress(OSError):
            (self.path / STATE).unlink(missing_ok=True)

    def history(self) -> tuple[EpochRecord, ...]:
        """Return the epochs of a network that is done. Raises `CheckpointError` for a missing or corrupt file."""
        self._check_file(HISTORY)
        return self.whole_history()

    def whole_history(self) -> tuple[EpochRecord, ...]:
        """Return the epochs in the folder, whatever the metrics say. Raises `CheckpointError` for a corrupt file."""
        path = self.path / HISTORY
        try:
            return read_history_csv(path.read_text(encoding="utf-8"))
        except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a history of training: {error}") from error

    def check_description(self, description: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> None:
        """Write the plan and its masks again where they differ or can't be read: they follow from the run alone."""
        masks = masks or {}
        try:
            is_known = read_run_record(self.path / PLAN) == as_written(description) and self._holds(masks)
        except CheckpointError as error:
            log.warning("%s; writing it again", error)
            is_known = False
        if not is_known:
            self._write_description(description, masks)

    def _holds(self, masks: Mapping[str, Tensor]) -> bool:
        known = read_tensors(self.path / MASKS)[0] if masks else {}
        return known.keys() == masks.keys() and all(torch.equal(known[name], mask) for name, mask in masks.items())

    def _write_description(self, description: Mapping[str, Any], masks: Mapping[str, Tensor]) -> None:
        named = {name for name, action in description.get("plan", {}).get("sites", {}).items() if "digest" in action}
        assert named <= masks.keys(), "a plan is of no use without its masks"
        if masks:
            write_tensors(self.path / MASKS, masks, {})
        write_record(self.path / PLAN, description)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Write the snapshot of a training that is not done."""
        write_tensors(self.path / STATE, snapshot.tensors, snapshot.values)

    def snapshot(self) -> Snapshot | None:
        """Return the last snapshot, None where there is none. Raises `CheckpointError` where it is corrupt."""
        if not (self.path / STATE).exists():
            return None
        tensors, values = read_tensors(self.path / STATE)
        return Snapshot(tensors=tensors, values=values)

    def clear(self) -> None:
        """Remove all files of this network."""
        with writing(self.path):
            shutil.rmtree(self.path)
            self.path.mkdir()


def history_csv(history: Sequence[EpochRecord]) -> str:
    """Return the epochs as CSV; an accuracy that was not measured is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["epoch", "learning_rate", "train_loss", "val_accuracy", "seconds"], lineterminator="\n"
    )
    writer.writeheader()
    for record in history:
        row = asdict(record)
        row["seconds"] = f"{record.seconds:.2f}"
        writer.writerow(row)
    return text.getvalue()


def read_history_csv(text: str) -> tuple[EpochRecord, ...]:
    """Return the epochs in a text of `history_csv`. Raises `KeyError`, `TypeError`, `ValueError` for another text."""
    return tuple(
        EpochRecord(
            epoch=int(row["epoch"]),
            learning_rate=float(row["learning_rate"]),
            train_loss=float(row["train_loss"]),
            val_accuracy=float(row["val_accuracy"]) if row["val_accuracy"] else None,
            seconds=float(row["seconds"]),
        )
        for row in csv.DictReader(io.StringIO(text))
    )
