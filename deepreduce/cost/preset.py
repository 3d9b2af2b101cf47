"""What networks cost under the protocols that are asked for: presets by name, the user's own among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deepreduce.cost.builtin import MODELS
from deepreduce.cost.link import LINKS, Link
from deepreduce.cost.model import CostModel
from deepreduce.cost.price import CostEstimate
from deepreduce.errors import UserError, unknown_name
from deepreduce.network import Network
from deepreduce.network.cost_layers import layers_of
from deepreduce.transforms import collapse
from deepreduce.transforms.collapse.choose import LayerCost, macs
from deepreduce.utils.cache_folder import cache_folder
from deepreduce.utils.files import read_json, write_json

CALIBRATED = "mine-"
"""Starts the name of a model that 'deepreduce private calibrate' fitted on this machine: mine-cheetah."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A protocol's cost model over a link. Its name is both names: "cheetah-wan"."""

    model: CostModel
    link: Link

    @property
    def name(self) -> str:
        """As in the names of columns."""
        return f"{self.model.name}-{self.link.name}"


def prices_of(network: Network, presets: Iterable[Preset]) -> dict[str, CostEstimate]:
    """What one image costs under each preset, by its name, collapsed as that preset makes it cheapest.

    Weights do not matter: a network on the meta device does.
    """
    prices = {}
    for preset in presets:
        collapsed = collapse(network, cost=preset.model.latency_of(preset.link)).network
        prices[preset.name] = preset.model.price(layers_of(collapsed), preset.link)
    return prices


def preset_named(name: str, *, folder: Path | None = None, models: Mapping[str, CostModel] | None = None) -> Preset:
    """The preset called MODEL-LINK, as in "delphi-lan" or "mine-cheetah-wan".

    Models are those of `models`, else the ones that come with deepreduce, else those of this machine, which are read
    from `folder` (None: `calibration_folder`). Raises `UserError` for a name that is not known.
    """
    model, _, link = name.rpartition("-")
    if link not in LINKS or not model:
        known = [f"{model}-{link}" for model in MODELS for link in LINKS]
        raise UserError(unknown_name("cost preset", name, known))
    found = (models or {}).get(model) or model_named(model, folder=folder)
    return Preset(model=found, link=LINKS[link])


def collapse_cost(protocol: str, link: Link) -> LayerCost:
    """What linear regions are collapsed by under a protocol over `link`: a layer's latency in seconds.

    It is that of the model which comes with deepreduce, so that the same network runs on every machine; of a protocol
    that has none, a layer's multiply-accumulates.
    """
    return MODELS[protocol].latency_of(link) if protocol in MODELS else macs


def model_named(name: str, *, folder: Path | None = None) -> CostModel:
    """The cost model of that name. Raises `UserError` where there is none."""
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
    """Names of the models that were fitted on this machine."""
    return sorted(path.stem for path in (folder or calibration_folder()).glob("*.json"))


def save_calibration(name: str, value: object, *, folder: Path | None = None) -> Path:
    """Keep what a calibration found (`Calibration.to_json`) for `model_named`; the file's path."""
    path = calibration_file(name, folder=folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)
    return path


def calibration_file(name: str, *, folder: Path | None = None) -> Path:
    """Where the model of that name is kept."""
    return (folder or calibration_folder()) / f"{name}.json"


def calibration_folder() -> Path:
    """The user's cache, where models of this machine are kept."""
    return cache_folder() / "cost"
