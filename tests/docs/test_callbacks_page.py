"""The callbacks of docs/callbacks.md work as written, and resume as if nothing had happened."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from deepreduce.data import ImageData
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.training import PreparedStudent, Stopped, TrainingCallback
from tests.helpers import REPOSITORY
from tests.helpers.images import random_images, striped
from tests.helpers.training import StopAfter, fit, same_weights, tiny

PAGE = (REPOSITORY / "docs" / "callbacks.md").read_text(encoding="utf-8")
HOOKS = re.findall(r"^\| `(on_\w+)` \|", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's code defines."""
    call, *definitions = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert call.startswith("deepreduce.optimize(")
    names: dict[str, Any] = {}
    exec("\n".join(definitions), names)
    return names


@pytest.fixture(scope="module")
def data() -> ImageData:
    return striped()


def built(factory: Any, *, seed: int = 0) -> tuple[PreparedStudent, TrainingCallback]:
    network = trace_network(tiny(seed=seed), (3, 8, 8), name="tiny")
    student = PreparedStudent(
        original=network, plan=ReductionPlan(), seed=seed, network=network, module=network.module
    )
    return student, factory.build(student)


def test_the_table_names_all_hooks() -> None:
    assert HOOKS == [name for name in vars(TrainingCallback) if name.startswith("on_")]


@pytest.mark.parametrize(
    ("name", "options"), [("AverageWeights", (0.5,)), ("ScoreFilters", ()), ("LearnMasks", (0.01,))]
)
def test_each_example_resumes_as_if_it_had_not_been_stopped(
    page: dict[str, Any], data: ImageData, name: str, options: tuple[float, ...]
) -> None:
    factory = page[name](*options)
    undisturbed, callback = built(factory)
    fit(undisturbed.module, data, callbacks=[callback])
    for stop_after in (2, 4, 6):
        stopped, callback = built(factory)
        stop = StopAfter(stop_after)
        with pytest.raises(Stopped):
            fit(stopped.module, data, callbacks=[callback], **stop.options())
        resumed, callback = built(factory, seed=5)
        fit(resumed.module, data, callbacks=[callback], resume=stop.snapshot)
        assert same_weights(resumed.network.module, undisturbed.network.module), stop_after


def test_scores_are_of_all_filters(page: dict[str, Any], data: ImageData, caplog: pytest.LogCaptureFixture) -> None:
    student, callback = built(page["ScoreFilters"]())
    with caplog.at_level("INFO"):
        fit(student.module, data, callbacks=[callback])
    assert {name: len(scores) for name, scores in callback.state_dict().items()} == {"conv": 8, "twice": 8}
    assert all(bool((scores > 0).all()) for scores in callback.state_dict().values())
    assert caplog.text.count("least important filter") == 2


def test_learned_masks_are_part_of_the_network_that_is_kept(page: dict[str, Any], data: ImageData) -> None:
    student, callback = built(page["LearnMasks"](0.5))
    masked: Any = student.module
    fit(masked, data, callbacks=[callback])
    assert not torch.equal(masked.masks[0], torch.ones(8))
    loaded = trace_network(tiny(seed=7), (3, 8, 8)).module
    loaded.load_state_dict(student.network.module.state_dict())
    images = random_images(4, size=8).float() / 255

    def logits(module: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return module.eval()(images)

    assert torch.equal(logits(loaded), logits(student.network.module))
    with torch.no_grad():  # the mask is in the batch-norm's weights: without them it would be all ones
        student.network.module.get_submodule("bn").weight /= masked.masks[0]
        student.network.module.get_submodule("bn").bias /= masked.masks[0]
        assert not torch.allclose(logits(loaded), logits(student.network.module))
