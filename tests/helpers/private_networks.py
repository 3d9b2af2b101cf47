"""Small networks for real engines, and a folder as a run leaves one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from deepreduce.data import Standardisation
from deepreduce.errors import UserError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.private.spu.install import check_installed
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import apply_plan, cull_plan
from tests.helpers.plain_engine import calibrated
from tests.helpers.records import begin_run

DIGITS = (1, 8, 8)


def _reason() -> str:
    try:
        check_installed()
    except UserError as error:
        return str(error)
    return ""


needs_engine = pytest.mark.skipif(bool(_reason()), reason=_reason() or "the engine is here")


def small_resnet() -> Network:
    """A ResNet with a block in each of three stages, for images of `DIGITS`."""
    spec = resolve_spec("resnet20", num_classes=10, in_channels=1, width=4, blocks=(1, 1, 1))
    return trace_network(calibrated(build_model(spec, seed=0), DIGITS), DIGITS, name="resnet20", spec=spec)


def saved_network(folder: Path) -> Path:
    """`small_resnet` without the ReLUs of S1, saved as a run saves it; RUN/config.yaml is the defaults'."""
    begin_run(folder)
    network = small_resnet()
    plan = cull_plan(network, ["S1"])
    reduced = apply_plan(network, plan)
    place = folder / "candidates" / "mine"
    place.mkdir(parents=True)
    NetworkFolder(path=place).finish(
        weights=reduced.module.state_dict(),
        description=describe_network(
            network, reduced, plan, label="mine", standardisation=Standardisation(mean=(80.0,), std=(90.0,))
        ),
        metrics={},
        history=(),
    )
    return place


def images(count: int, network: Network) -> torch.Tensor:
    """(count, C, H, W), random."""
    return torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(5))


def parties_left(parent: int | None = None) -> list[str]:
    """Party processes that are alive, children of `parent` or (None) of anybody."""
    words = ["pgrep", "-f", "deepreduce.private.parties.party", *(["-P", str(parent)] if parent is not None else [])]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
