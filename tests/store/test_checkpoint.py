"""A saved network loads back with bit-equal logits, from plain files alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepreduce import load_reduced
from deepreduce.errors import CheckpointError, ModelError, PlanError, UserError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.store.checkpoint import describe_network
from deepreduce.store.network_folder import NetworkFolder
from deepreduce.transforms import apply_plan, cull_plan, thin_plan
from deepreduce.utils.seed import derived_generator
from tests.helpers import zoo
from tests.helpers.records import change_record, changed

FACTORY = """
from torch import nn

def make(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )
"""


RESNET18 = resolve_spec("resnet18", num_classes=5, width=8, blocks=(2, 2, 1, 1)).to_json()


def original(name: str, *, num_classes: int = 5, **options: Any) -> Network:
    spec = resolve_spec(name, num_classes=num_classes, **options)
    return trace_network(build_model(spec, seed=3), (spec.in_channels, 16, 16), name=name, spec=spec)


def disturbed(network: Network) -> Network:
    """As after a training: every weight and every running statistic is its own."""
    generator = derived_generator("disturbed")
    with torch.no_grad():
        for name, tensor in network.module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator) * 0.1
                tensor.add_(noise if "running_var" not in name else noise + 0.1)
    network.module.eval()
    return network


def saved(whole: Network, plan: ReductionPlan, folder: Path) -> Network:
    """A reduced network, kept as a run keeps it."""
    reduced = disturbed(apply_plan(whole, plan))
    NetworkFolder(path=folder).finish(
        weights=reduced.module.state_dict(),
        description=describe_network(whole, reduced, plan, label="mine"),
        metrics={},
        history=(),
    )
    return reduced


def logits(module: nn.Module, network: Network) -> torch.Tensor:
    images = torch.randn(4, *network.input_shape, generator=derived_generator("images"))
    with torch.no_grad():
        result: torch.Tensor = module(images)
    return result


def small(name: str = "resnet18") -> Network:
    return original(name, width=8, blocks=(2, 2, 1, 1))


PLANS: dict[str, Callable[[Network], ReductionPlan]] = {
    "nothing": lambda network: ReductionPlan(),
    "cull": lambda network: cull_plan(network, stages=["S1"]),
    "thin": lambda network: thin_plan(network),
    "alpha": lambda network: ReductionPlan(alpha=0.5),
    "rho": lambda network: ReductionPlan(rho=0.5),
    "depth": lambda network: ReductionPlan(depth=(1, 1, 1, 1)),
    "everything": lambda network: cull_plan(network, stages=["S2"]).merge(
        ReductionPlan(alpha=0.5, rho=0.5, depth=(2, 1, 1, 1))
    ),
}


@pytest.mark.parametrize("kind", PLANS)
def test_a_saved_network_gives_bit_equal_logits(tmp_path: Path, kind: str) -> None:
    whole = small()
    reduced = saved(whole, PLANS[kind](whole), tmp_path)
    state = torch.get_rng_state()
    loaded = load_reduced(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert not loaded.training
    assert torch.equal(logits(loaded, reduced), logits(reduced.module, reduced))
    names = [(site.name, site.relu_count) for site in reduced.sites]
    described = json.loads((tmp_path / "plan.json").read_text())
    assert [(site["name"], site["relu_count"]) for site in described["sites"]] == names


def test_a_network_of_torchvision_loads_back(tmp_path: Path) -> None:
    whole = original("torchvision:resnet18")
    reduced = saved(whole, cull_plan(whole, stages=["S1"]), tmp_path)
    assert torch.equal(logits(load_reduced(tmp_path), reduced), logits(reduced.module, reduced))


def test_a_network_of_the_users_file_loads_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    whole = original("mine.py:make")
    reduced = saved(whole, ReductionPlan(sites=((whole.sites[0].name, "identity"),)), tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_reduced(tmp_path, trust_code=True)
    assert torch.equal(logits(loaded, reduced), logits(reduced.module, reduced))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(
        UserError, match=r"built by running the file .*/mine\.py; .*--trust-code .*trust_code=True"
    ) as caught:
        load_reduced(tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()
    (tmp_path / "mine.py").unlink()
    with pytest.raises(ModelError, match=r"no file .*mine\.py"):
        load_reduced(tmp_path, trust_code=True)


def test_a_network_given_from_python_needs_a_module_of_its_class_which_stays_as_it_was(tmp_path: Path) -> None:
    whole = zoo.TOYS["basic"].network()
    reduced = saved(whole, cull_plan(whole, stages=["S2"]), tmp_path)
    with pytest.raises(UserError, match=r"given as a Python module; pass model=... of the same class"):
        load_reduced(tmp_path)
    module = zoo.TOYS["basic"].build().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    loaded = load_reduced(tmp_path, model=module)
    assert torch.equal(logits(loaded, reduced), logits(reduced.module, reduced))
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_module_of_another_class_is_refused(tmp_path: Path) -> None:
    whole = zoo.TOYS["basic"].network()
    saved(whole, cull_plan(whole, stages=["S2"]), tmp_path)
    with pytest.raises((PlanError, CheckpointError)):
        load_reduced(tmp_path, model=zoo.TOYS["chain"].build())


@pytest.mark.parametrize("missing", ["plan.json", "model.safetensors"])
def test_a_folder_without_a_network_is_refused_with_an_example(tmp_path: Path, missing: str) -> None:
    saved(small(), ReductionPlan(), tmp_path)
    (tmp_path / missing).unlink()
    for path in (tmp_path, tmp_path / "gone", str(tmp_path / "plan.json")):
        with pytest.raises(UserError, match=r"holds no saved network .*RUN/candidates/HASH"):
            load_reduced(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda description: {},
        changed(plan={"alpha": 7}),
        changed(plan=[]),
        changed(input_shape=[3, 16]),
        changed(input_shape="large"),
        changed(input_shape=[3, 16, 16.5]),
        changed(input_shape=[3, 10**9, 10**9]),
        changed(input_shape=[0, 16, 16]),
        changed(input_shape=[3, 10**400, 16]),
        changed(model={"name": "resnet18"}),
        changed(model=[1]),
        *[changed(model={**RESNET18, "name": name}) for name in ("resnet27", "torchvision:resnet19", "x.py:f", "")],
        *[changed(model={**RESNET18, "width": width}) for width in (None, 0, "8", 10**400, True)],
        *[changed(model={**RESNET18, "blocks": blocks}) for blocks in (None, [1], [2, 2, 1, 10**6], "2221")],
        changed(model={**RESNET18, "num_classes": 1}),
        changed(model={**RESNET18, "more": 1}),
        changed(stages=["S1"]),
        changed(stages={"S1": "relu"}),
        changed(stages={"S1": ["("]}),
        changed(standardisation={"mean": [1], "std": [0]}),
        changed(standardisation={"mean": ["1"], "std": [1]}),
        changed(standardisation={"mean": [1, 2], "std": [1, 2]}),
        changed(standardisation={"mean": [10**400], "std": [1]}),
        changed(standardisation={"mean": [1]}),
        changed(standardisation=3),
        changed(label=3),
        changed(model_name=""),
        changed(sites=[{"name": "a", "stage": "S1", "relu_count": -1}]),
        changed(more=1),
    ],
)
def test_a_plan_that_describes_no_network_is_named(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    saved(small(), ReductionPlan(), tmp_path)
    change_record(tmp_path / "plan.json", change)
    with pytest.raises(CheckpointError, match=r"plan\.json does not describe a network") as caught:
        load_reduced(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (changed(plan={"alpha": 0.5}), "holds another plan than it says"),
        (changed(model={**RESNET18, "width": 2**19}), "does not describe a network"),
        (changed(model={**RESNET18, "width": 80}), "far larger than its weights"),
        (changed(model={**RESNET18, "width": 9}), "the weights are of another network"),
        (changed(model={**RESNET18, "num_classes": 6}), "the weights are of another network"),
    ],
)
def test_a_plan_of_another_network_is_named_before_it_is_built(
    tmp_path: Path, change: Callable[[Any], Any], problem: str
) -> None:
    saved(small(), ReductionPlan(), tmp_path)
    change_record(tmp_path / "plan.json", change)
    with pytest.raises(CheckpointError, match=problem):
        load_reduced(tmp_path)


def test_a_plan_that_does_not_fit_its_network_is_named(tmp_path: Path) -> None:
    saved(small(), ReductionPlan(), tmp_path)
    plan = ReductionPlan(sites=(("nowhere.relu", "identity"),))
    change_record(tmp_path / "plan.json", changed(plan=plan.to_json(), plan_id=plan.plan_id))
    with pytest.raises(CheckpointError, match=r"plan\.json does not fit its network: .*nowhere"):
        load_reduced(tmp_path)


def test_weights_of_another_network_are_named_with_a_difference(tmp_path: Path) -> None:
    saved(small(), ReductionPlan(), tmp_path)
    other = NetworkFolder(path=tmp_path / "other")
    other.path.mkdir()
    other.finish(weights={"w": torch.zeros(10**5)}, description={}, metrics={}, history=())
    for name in ("model.safetensors", "metrics.json"):
        (other.path / name).rename(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"the weights are of another network: .*key") as caught:
        load_reduced(tmp_path)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return ((tmp_path / "sprung").touch, ())

    reduced = saved(small(), ReductionPlan(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_reduced(tmp_path)
    torch.save(reduced.module.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_reduced(tmp_path)
    assert not (tmp_path / "sprung").exists()
