"""The original network and its data are checked against each other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from deepreduce.config.inputs import choose_device, facts_without_data, load_data, original_network, preparation_of
from deepreduce.config.schema import DataConfig, ModelConfig
from deepreduce.data import DataFacts
from deepreduce.errors import ConfigError, ModelError

FACTS = DataFacts(num_classes=10, image_shape=(1, 8, 8), train_images=100, val_images=10, test_images=10)
SMALL = ModelConfig(name="resnet20", width=4, blocks=(1, 1, 1))


def test_sizes_of_a_known_data_set_need_no_data() -> None:
    facts = facts_without_data(DataConfig(name="cifar100", val_fraction=0.2, train_limit=1000))
    assert facts is not None and facts.num_classes == 100 and facts.image_shape == (3, 32, 32)
    assert facts.train_images + facts.val_images == 1000
    assert facts_without_data(DataConfig(name="npz:mine.npz")) is None


def test_facts_without_data_are_those_of_the_data() -> None:
    config = DataConfig(name="digits", train_limit=300, test_limit=100)
    assert load_data(config, seed=0).facts == facts_without_data(config)


def test_every_key_of_the_preparation_is_passed_on() -> None:
    config = DataConfig(
        val_fraction=0.3, train_limit=7, test_limit=8, image_size=9, channels=3, pad=1, flip=True, workers=2
    )
    found = preparation_of(config)
    assert {name: getattr(config, name) for name in vars(found)} == vars(found)


def test_the_seed_decides_the_initial_weights() -> None:
    states = [original_network(SMALL, FACTS, seed=seed).module.state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values(), strict=True))


def test_weights_of_another_run_are_loaded_and_foreign_ones_named(tmp_path: Path) -> None:
    module = original_network(SMALL, FACTS, seed=3).module
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in module.state_dict().items()}, path)
    loaded = original_network(SMALL.model_copy(update={"weights": str(path)}), FACTS, seed=4).module
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in loaded.state_dict().items())
    other = ModelConfig(name="resnet20", width=8, blocks=(1, 1, 1), weights=str(path))
    with pytest.raises(ModelError, match="is of another network"):
        original_network(other, FACTS, seed=0)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="can't be read as safetensors"):
        original_network(SMALL.model_copy(update={"weights": str(path)}), FACTS, seed=0)


class Heads(nn.Module):
    def __init__(self, classes: int, *, relu: bool = True, two: bool = False) -> None:
        super().__init__()
        self.fc, self.act, self.two = nn.Linear(64, classes), nn.ReLU() if relu else nn.Tanh(), two

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.fc(self.act(x.flatten(1)))
        return (y, y * 2) if self.two else y


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Heads(7), r"gives a tensor of shape \(7,\) for one image; the data have 10 classes"),
        (Heads(10, two=True), "has 2 outputs"),
        (Heads(10, relu=False), "has no ReLUs, so there is nothing to reduce"),
    ],
)
def test_a_network_that_does_not_fit_the_data_says_why(module: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        original_network(ModelConfig(name="python:Heads"), FACTS, seed=0, given=module)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    for name in ("tpu", "gpu", "cpu:x"):
        with pytest.raises(ConfigError, match="unknown device"):
            choose_device(name)
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match="PyTorch sees 0 CUDA devices; use device cpu"):
            choose_device("cuda")


FACTORIES = """
import torch
from torch import nn

def network(kind=nn.Linear):
    return nn.Sequential(nn.Flatten(), kind(64, 8), nn.ReLU(), nn.Linear(8, 10))

def double(): return network().double()
def half(): return network().half()
def meta(): return network().to("meta")
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 10))
def frozen(): return network().requires_grad_(False)
def class_of_module(): return nn.Linear
def nothing(): pass
def number(): return 5
def raises(): raise ValueError("first line\\nsecond" + "x" * 100_000)
def leaves(): raise SystemExit(3)
def deep(): return deep()
def needs(argument): return network()
def not_finite():
    made = network()
    nn.init.constant_(made[1].weight, float("nan"))
    return made
def moves_path():
    import sys
    sys.path.clear()
    raise KeyError("path")
"""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("double", "1.weight is torch.float64; networks are trained in float32: call .float()"),
        ("half", "1.weight is torch.float16; networks are trained in float32"),
        ("meta", "1.weight has no values"),
        ("lazy", "1.weight has no shape yet; run one batch"),
        ("frozen", "has no parameters that require gradients"),
        ("not_finite", "1.weight holds NaN or infinite values"),
        ("class_of_module", "returned type; it must return a torch.nn.Module"),
        ("nothing", "returned NoneType"),
        ("number", "returned int"),
        ("raises", "raised ValueError: first line second"),
        ("leaves", "raised SystemExit: 3"),
        ("deep", "raised RecursionError"),
        ("needs", "raised TypeError"),
        ("moves_path", "raised KeyError"),
        ("absent", "unknown function 'absent'"),
        ("torch", "unknown function 'torch'"),
    ],
)
def test_a_factory_that_returns_no_network_to_train_is_one_short_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, message: str
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "own.py").write_text(FACTORIES)
    with pytest.raises(ModelError) as caught:
        original_network(ModelConfig(name=f"{tmp_path / 'own.py'}:{factory}"), FACTS, seed=0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1_500


@pytest.mark.parametrize(
    "content", [b"\xff", b"def f(:", b"\0", b"raise SystemExit", b"1/0", b"import no_such_module"]
)
def test_a_file_that_is_no_module_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.py").write_bytes(content)
    with pytest.raises(ModelError, match=r"own\.py can't be imported: ") as caught:
        original_network(ModelConfig(name=f"{tmp_path / 'own.py'}:f"), FACTS, seed=0)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = original_network(SMALL, FACTS, seed=3).module.state_dict()
    state = {key: value.clone() for key, value in state.items()}
    next(iter(state.values())).fill_(float("inf"))
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="holds NaN or infinite values"):
        original_network(SMALL.model_copy(update={"weights": str(tmp_path / "w.safetensors")}), FACTS, seed=0)
