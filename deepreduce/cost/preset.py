"""Presets: cost models over links by name, those that come with deepreduce and those calibrated on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepreduce.cost.batch import split_batch, with_batch
from deepreduce.cost.builtin import MODELS
from deepreduce.cost.link import LINKS, Link
from deepreduce.cost.model import CostModel
from deepreduce.errors import UserError, unknown_name
from deepreduce.utils.cache_folder import cache_folder
from deepreduce.utils.file_names import checked_name
from deepreduce.utils.files import read_json, write_json

CALIBRATED = "mine-"
"""Prefix of the models that 'deepreduce private calibrate' fitted on this machine, as in mine-cheetah."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A protocol's cost model over a link, for queries of `batch` images; costs are those of one of them."""

    model: CostModel
    link: Link
    batch: int = 1

    @property
    def name(self) -> str:
        """MODEL-LINK or MODEL-xBATCH-LINK, as in "cheetah-wan" and "semi2k-x16-lan"; names of columns end in it."""
        return f"{with_batch(self.model.name, self.batch)}-{self.link.name}"


def preset_named(name: str, *, folder: Path | None = None, models: Mapping[str, CostModel] | None = None) -> Preset:
    """Return the preset called MODEL-LINK, as in "delphi-lan" or "mine-cheetah-wan", or MODEL-xBATCH-LINK.

    The model is looked up in `models`, then among those that come with deepreduce, then among those of this machine
    in `folder` (None: `calibration_folder`). Raises `UserError` for an unknown name.
    """
    model, _, link = name.rpartition("-")
    if link not in LINKS or not model:
        known = [f"{model}-{link}" for model in MODELS for link in LINKS]
        raise UserError(unknown_name("cost preset", name, known))
    model, batch = split_batch(model)
    found = (models or {}).get(model) or model_named(model, folder=folder)
    return Preset(model=found, link=LINKS[link], batch=batch)


def model_named(name: str, *, folder: Path | None = None) -> CostModel:
    """Return the cost model of that name. Raises `UserError` for an unknown name."""
    if name in MODELS:
        return MODELS[name]
    path = calibration_file(name, folder=folder)
    if not path.exists():
        hint = ""
        if name.startswith(CALIBRATED):
            hint = f"; write it with 'deepreduce private calibrate --protocol {name.removeprefix(CALIBRATED)}'"
        raise UserError(unknown_name("cost model", name, [*MODELS, *calibrated_models(folder)]) + hint)
    return CostModel.from_json(read_json(path)["model"])


def calibrated_models(folder: Path | None = None) -> list[str]:
    """Return the names of the models that were fitted on this machine."""
    return sorted(path.stem for path in (folder or calibration_folder()).glob("*.json"))


def save_calibration(name: str, value: object, *, folder: Path | None = None) -> Path:
    """Write a calibration (`Calibration.to_json`) to where `model_named` finds it; return the file's path."""
    path = calibration_file(name, folder=folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)
    return path


def calibration_file(name: str, *, folder: Path | None = None) -> Path:
    """Return the file of the model of that name. Raises `UserError` for a name that leads out of the folder."""
    return (folder or calibration_folder()) / f"{checked_name(name)}.json"


def calibration_folder() -> Path:
    """Return the folder of the models that were fitted on this machine, in the user's cache."""
    return cache_folder() / "cost"
