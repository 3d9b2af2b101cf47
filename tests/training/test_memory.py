"""A batch that can't fit is refused before anything is trained."""

from __future__ import annotations

import pytest
import torch

from deepreduce.errors import ModelError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.training.memory import check_batch_fits
from deepreduce.utils import memory


def test_a_batch_is_compared_with_what_its_relus_and_pixels_take(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolve_spec("resnet20", in_channels=1, width=2, blocks=[1, 1, 1])
    network = trace_network(build_model(spec), (1, 8, 8), spec=spec)
    needed = 10 * 4 * (network.relu_count + 64)
    monkeypatch.setattr(memory, "free_memory", lambda: needed)
    check_batch_fits(network, batch_size=10, device=torch.device("cpu"))
    with pytest.raises(ModelError, match=r"a batch of 11 images of 1x8x8 .* lower training.batch_size"):
        check_batch_fits(network, batch_size=11, device=torch.device("cpu"))
