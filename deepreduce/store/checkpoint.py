"""Reduced networks loaded back from their folders: safetensors and JSON, nothing unpickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepreduce.data import Standardisation
from deepreduce.errors import CheckpointError, PlanError, UserError
from deepreduce.models import ModelSpec, build_model
from deepreduce.models.build import count_parameters
from deepreduce.network import Network, trace_guarded, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.sites import actions_in
from deepreduce.store.description import plan_in, read_description, spec_in
from deepreduce.store.names import MASKS, METRICS, PLAN, WEIGHTS
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.store.sealed import read_run_record
from deepreduce.transforms import apply_plan
from deepreduce.utils.files import read_tensors
from deepreduce.utils.memory import memory_bytes

_BYTES, _ROOM = 4, 8
"""Bytes of a parameter, and how many times fewer a reduced network may have than its scaling alone says."""


def describe_network(
    original: Network,
    reduced: Network,
    plan: ReductionPlan,
    *,
    label: str,
    standardisation: Standardisation | None = None,
) -> dict[str, Any]:
    """Return plain values for plan.json: what `load_reduced` needs beside weights and masks, and the sites left."""
    actions = actions_in(reduced)
    return {
        "label": label,
        "plan_id": plan.plan_id,
        "plan": plan.to_json(),
        "model": original.spec.to_json() if original.spec is not None else None,
        "model_name": original.name,
        "input_shape": list(original.input_shape),
        "stages": {k: list(v) for k, v in original.stage_patterns.items()} if original.stage_patterns else None,
        "standardisation": (
            {"mean": list(standardisation.mean), "std": list(standardisation.std)} if standardisation else None
        ),
        "sites": [
            {"name": s.name, "stage": s.stage, "relu_count": s.relu_count}
            | ({"action": actions[s.name].text(s)} if s.name in actions else {})
            for s in reduced.sites
        ],
    }


@dataclass(frozen=True, kw_only=True)
class SavedNetwork:
    """A network's folder, read: how the original was built, what was reduced, and the weights."""

    path: Path
    spec: ModelSpec | None
    model_name: str
    input_shape: tuple[int, int, int]
    plan: ReductionPlan
    label: str
    stages: Mapping[str, Sequence[str]] | None = None
    standardisation: Standardisation | None = None

    @classmethod
    def read(cls, folder: str | Path) -> SavedNetwork:
        """Return the network that a folder describes; build nothing and run no code.

        Raises `UserError` where the folder holds no saved network, `CheckpointError` for a corrupt plan.json.
        """
        path = Path(folder)
        check_network_folder(path)
        saved = read_description(path)
        return cls(
            path=path,
            spec=spec_in(saved, path / PLAN),
            model_name=saved.model_name,
            input_shape=saved.image_shape,
            plan=_with_masks(path, plan_in(saved, path / PLAN)),
            label=saved.label,
            standardisation=saved.images_standardised,
            stages=saved.stages,
        )

    def original(self, model: nn.Module | None = None, *, trust_code: bool = False) -> Network:
        """Return the network that the plan applies to: built from its spec, or `model` where that is given.

        A network of a user's file is built by running the file, if `trust_code`. Raises `UserError` where it is not
        trusted, or where the network was a module and `model` is not given; `NetworkGuardError` where its graph does
        not compute what the module does.
        """
        if self.spec is None and model is None:
            raise UserError(
                f"{self.path} holds a reduction of {self.model_name}, which was given as a Python module;"
                " pass model=... of the same class"
            )
        if model is None:
            assert self.spec is not None
            _refuse_untrusted(self.path, self.spec, trust_code=trust_code)
            self._check_size(self.spec)
            model = build_model(self.spec)
        if self.spec is not None and self.spec.is_zoo:  # the tests check every network of the zoo
            return trace_network(model, self.input_shape, name=self.model_name, spec=self.spec, stages=self.stages)
        # the run that saved the network has checked training mode
        return trace_guarded(
            model, self.input_shape, name=self.model_name, spec=self.spec, stages=self.stages, training=False
        )

    def _check_size(self, spec: ModelSpec) -> None:
        """Raise `CheckpointError`, before any memory is taken, where the original is far larger than the weights are.

        A network scaled by alpha has at least about alpha^2 of the parameters.
        """
        if spec.runs_file is not None:
            return
        kept = spec if self.plan.depth is None or not spec.is_zoo else spec.scaled(alpha=1, depth=self.plan.depth)
        needed = count_parameters(kept) * self.plan.alpha**2 / _ROOM
        stored = (self.path / WEIGHTS).stat().st_size / _BYTES
        if needed > stored or count_parameters(spec) * _BYTES > memory_bytes():
            raise CheckpointError(
                f"{self.path / PLAN} describes a network that is far larger than its weights; restore the folder"
            )

    def load(self, model: nn.Module | None = None, *, trust_code: bool = False) -> Network:
        """Return the reduced network with its trained weights, in evaluation mode. Arguments are as in `original`."""
        weights = NetworkFolder(path=self.path).weights()
        original = self.original(model, trust_code=trust_code)
        try:
            reduced = apply_plan(original, self.plan)
        except PlanError as error:
            if model is not None:
                raise
            raise CheckpointError(f"{self.path / PLAN} does not fit its network: {error}") from error
        load_weights(reduced.module, weights, source=self.path)
        reduced.module.eval()
        return reduced


def read_plan(folder: str | Path) -> ReductionPlan:
    """Return the plan of a network of a run, with its masks. Raises `CheckpointError` for a corrupt file."""
    path = Path(folder)
    return _with_masks(path, plan_in(read_description(path), path / PLAN))


def _with_masks(path: Path, plan: ReductionPlan) -> ReductionPlan:
    """Return the plan with the masks that it names by digest. Raises `CheckpointError` where those are not there."""
    if plan.is_complete:
        return plan
    tensors, _ = read_tensors(path / MASKS)
    try:
        return ReductionPlan.from_json(plan.to_json(), tensors=tensors)
    except PlanError as error:
        raise CheckpointError(f"{path / MASKS} does not hold the masks of {PLAN}: {error}") from error


def check_network_folder(path: Path) -> None:
    """Raise `UserError` for a folder that holds no saved network."""
    _check_trained(path)
    if not (path / PLAN).is_file() or not (path / WEIGHTS).is_file():
        raise UserError(
            f"{path} holds no saved network (plan.json and model.safetensors); give a folder such as"
            " RUN/candidates/HASH or RUN/teacher"
        )


def _refuse_untrusted(path: Path, spec: ModelSpec, *, trust_code: bool) -> None:
    """Raise `UserError` for a network whose building runs a file that the caller has not said to trust."""
    if spec.runs_file is not None and not trust_code:
        raise UserError(
            f"{path} is a network of {spec.name}, which is built by running the file {spec.runs_file}; if you trust"
            " that file, give --trust-code (in Python: trust_code=True)"
        )


def _check_trained(path: Path) -> None:
    """Raise `UserError` for a network of a run that has no weights, since its training failed or was not worth it."""
    if (path / WEIGHTS).is_file() or not (path / METRICS).is_file():
        return
    metrics = read_run_record(path / METRICS)
    if metrics.get("failure"):
        raise UserError(f"{path} holds no weights: {metrics['failure']}")


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy weights into a module of the same names and shapes; raises `CheckpointError` for others."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: the weights are of another network: {_first_difference(error)}") from error


def _first_difference(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)][:160]


class Standardised(nn.Module):
    """A network that takes raw pixel values, (batch, C, H, W) of any number type, and standardises them first."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, standardisation: Standardisation) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(standardisation.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(standardisation.std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network((pixels.float() - self.mean) / self.std)  # (batch, classes)
        return logits


def load_reduced(
    folder: str | Path, *, model: nn.Module | None = None, raw_pixels: bool = False, trust_code: bool = False
) -> nn.Module:
    """A trained network of a run, as an ordinary `nn.Module` in evaluation mode, with bit-equal logits.

    `folder` is RUN/teacher or RUN/candidates/HASH. For a network whose original was a Python module, pass a
    module of the same class as `model`; it is not changed. The network takes images standardised as in training;
    with `raw_pixels`, it takes pixel values as they are in the data set (bytes: 0 to 255) and standardises them
    itself. A network of FILE.py:FACTORY is built by running that file, for which `trust_code` must be true. Raises
    `UserError` where there is nothing to load, no standardisation is known, or a file is not trusted, and
    `CheckpointError` where a file is not as it was written.
    """
    saved = SavedNetwork.read(folder)
    module = saved.load(model, trust_code=trust_code).module
    if not raw_pixels:
        return module
    if saved.standardisation is None:
        raise UserError(f"{folder} was trained on a data set with transforms of its own; apply those, not raw_pixels")
    return Standardised(module, saved.standardisation).eval()
