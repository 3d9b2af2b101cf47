"""The content of a network's plan.json: how the original is built, what is reduced, how images are standardised."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from deepreduce.data import Standardisation
from deepreduce.errors import CheckpointError, UserError
from deepreduce.models import ModelSpec
from deepreduce.models.build import check_spec
from deepreduce.plan import ReductionPlan
from deepreduce.store.names import PLAN
from deepreduce.store.sealed import RecordModel, checked, read_run_record

_NO_NETWORK = "does not describe a network"


def _check_patterns(patterns: list[str]) -> list[str]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
    return patterns


_Side = Annotated[int, Field(ge=1, le=2**14)]
_Text = Annotated[str, Field(max_length=4096)]
_Name = Annotated[str, Field(min_length=1, max_length=1024)]
_Patterns = Annotated[list[_Text], AfterValidator(_check_patterns)]
_Mean = Annotated[float, Field(ge=-1e30, le=1e30)]
_Deviation = Annotated[float, Field(gt=0, le=1e30)]


class StandardisationRecord(RecordModel):
    """Mean and standard deviation of each channel of the images, as the network was trained."""

    mean: Annotated[list[_Mean], Field(min_length=1)]
    std: Annotated[list[_Deviation], Field(min_length=1)]


class SiteRecord(RecordModel):
    """A ReLU site that is left in the network."""

    name: _Name
    stage: _Name
    relu_count: Annotated[int, Field(ge=0, le=2**53)]
    action: _Text = ""


class NetworkDescription(RecordModel):
    """Everything that plan.json holds. The plan and the model stay plain values; they have readers of their own."""

    label: _Text
    plan_id: _Name
    plan: dict[str, Any]
    model: dict[str, Any] | None
    model_name: _Name
    input_shape: Annotated[list[_Side], Field(min_length=3, max_length=3)]
    stages: dict[str, _Patterns] | None = None
    standardisation: StandardisationRecord | None = None
    sites: list[SiteRecord]

    @model_validator(mode="after")
    def _check_channels(self) -> NetworkDescription:
        given = self.standardisation
        lengths = (1, self.input_shape[0])
        if given is not None and (len(given.mean) not in lengths or len(given.std) not in lengths):
            raise ValueError(f"standardisation needs a mean and a std for each of {self.input_shape[0]} channels")
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        channels, height, width = self.input_shape
        return channels, height, width

    @property
    def images_standardised(self) -> Standardisation | None:
        """Return how images are standardised, None where the data set had transforms of its own."""
        given = self.standardisation
        return None if given is None else Standardisation(mean=tuple(given.mean), std=tuple(given.std))


def read_description(folder: Path) -> NetworkDescription:
    """Return what plan.json of a network's folder holds. Raises `CheckpointError` where that is not as written."""
    return checked(NetworkDescription, read_run_record(folder / PLAN), folder / PLAN, _NO_NETWORK)


def spec_in(description: NetworkDescription, path: Path) -> ModelSpec | None:
    """Return how the original is built, None where it was a module. Raises `CheckpointError` for an unknown one."""
    if description.model is None:
        return None
    try:
        spec = ModelSpec.from_json(description.model)
        check_spec(spec)
    except UserError as error:
        raise CheckpointError(f"{path} {_NO_NETWORK}: {str(error)[:400]}") from error
    return spec


def plan_in(description: NetworkDescription, path: Path) -> ReductionPlan:
    """Return the plan, its masks known by digest. Raises `CheckpointError` where it has another id than is stored."""
    try:
        plan = ReductionPlan.from_json(description.plan)
    except UserError as error:
        raise CheckpointError(f"{path} {_NO_NETWORK}: {str(error)[:400]}") from error
    if plan.plan_id != description.plan_id:
        raise CheckpointError(
            f"{path} holds another plan than it says: the id of its plan is {plan.plan_id}, not {description.plan_id}"
        )
    return plan


def as_written(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description as `read_run_record` gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(description)))
    return plain
