"""From a name to a spec to a network, and what a wrong name is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deepreduce.errors import ModelError
from deepreduce.models import build_model, default_input_size, resolve_spec
from deepreduce.network import trace_network


def test_weights_come_from_the_seed_and_leave_the_random_state_alone() -> None:
    spec = resolve_spec("resnet20", width=2)
    state = torch.get_rng_state()
    first, second, other = build_model(spec, seed=1), build_model(spec, seed=1), build_model(spec, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    weights, same, different = (m.state_dict() for m in (first, second, other))
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    assert not torch.equal(weights["stem.conv.weight"], different["stem.conv.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", r"unknown model 'resnet81'; did you mean 'resnet18'\? known: resnet18, .*FILE.py:FACTORY"),
        ("ResNet18", "did you mean 'resnet18'"),
        ("resnet50", "did you mean 'torchvision:resnet50'"),
        ("torchvision:resnet51", "did you mean 'torchvision:resnet1?5"),
        ("", "unknown model ''; known: resnet18"),
        ("net.py", "unknown model 'net.py'"),
    ],
)
def test_an_unknown_model_is_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        resolve_spec(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"num_classes": 1}, "num_classes is 1"),
        ("resnet18", {"in_channels": 0}, "in_channels is 0"),
        ("resnet18", {"width": 0}, "width is 0"),
        ("resnet18", {"blocks": [2, 2]}, r"needs 4 positive counts, as in \[2, 2, 2, 2\]"),
        ("resnet18", {"blocks": [2, 2, 0, 2]}, "number of blocks is 0; give 1 to 500"),
        ("torchvision:resnet18", {"width": 8}, "options of the zoo's networks"),
        ("torchvision:resnet18", {"in_channels": 1}, "takes 3 input channels, the data have 1; data.channels=3"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_spec(name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "size"), [("resnet18", 224), ("inception_v3", 299), ("vit_h_14", 224)])
def test_torchvisions_networks_have_their_own_input_size(name: str, size: int) -> None:
    assert default_input_size(resolve_spec(f"torchvision:{name}")) == size


def test_a_network_that_computes_while_it_is_built_reaches_the_meta_device_too() -> None:
    spec = resolve_spec("torchvision:regnet_x_400mf")
    assert all(parameter.is_meta for parameter in build_model(spec, device="meta").parameters())


def test_torchvisions_networks_take_other_classes() -> None:
    spec = resolve_spec("torchvision:squeezenet1_1", num_classes=7)
    assert trace_network(build_model(spec, device="meta"), (3, 64, 64), spec=spec).output_shape == (7,)


def test_pretrained_weights_exist_for_torchvision_only() -> None:
    with pytest.raises(ModelError, match="no pretrained weights; they exist for torchvision:NAME"):
        build_model(resolve_spec("resnet18", width=1), pretrained=True)


# -- the user's own file ------------------------------------------------------------------------------------

OWN = """
from torch import nn

WIDTH = 4

class Net(nn.Sequential):
    def __init__(self, num_classes=10, in_channels=3):
        super().__init__(nn.Conv2d(in_channels, WIDTH, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

def options(**options):
    assert options == {"num_classes": 6, "in_channels": 1}
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))

def classes(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))

def broken(num_classes):
    raise ValueError("no such width")

def needs(width):
    return plain()

def nothing():
    return None
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own_net.py"
    path.write_text(OWN)
    return path


@pytest.mark.parametrize(
    ("factory", "num_classes", "in_channels"), [("plain", 10, 3), ("options", 6, 1), ("classes", 4, 3)]
)
def test_a_factory_gets_the_options_it_takes(
    own_file: Path, factory: str, num_classes: int, in_channels: int
) -> None:
    spec = resolve_spec(f"{own_file}:{factory}", num_classes=num_classes, in_channels=in_channels)
    network = trace_network(build_model(spec), (in_channels, 8, 8), spec=spec)
    assert network.output_shape == (num_classes,)
    assert network.relu_count == 4 * 6 * 6
    assert default_input_size(spec) == 224


def test_a_class_is_a_factory_too(tmp_path: Path) -> None:
    (tmp_path / "classy.py").write_text(
        "from torch import nn\n\nclass Net(nn.Linear):\n    def __init__(self, num_classes):\n"
        "        super().__init__(8, num_classes)\n"
    )
    assert isinstance(build_model(resolve_spec(f"{tmp_path / 'classy.py'}:Net", num_classes=3)), nn.Linear)


def test_a_file_is_remembered_by_its_absolute_path(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_file.parent)
    assert resolve_spec("own_net.py:plain").name == f"{own_file.resolve()}:plain"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("plian", r"own_net.py: unknown function 'plian'; did you mean 'plain'\?"),
        ("WIDTH", "unknown function 'WIDTH'"),
        ("broken", "broken of .*own_net.py raised ValueError: no such width"),
        ("needs", "needs of .*own_net.py raised TypeError: .*'width'"),
        ("nothing", "nothing of .*own_net.py returned NoneType; it must return a torch.nn.Module"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_factory_that_does_not_work_is_refused_with_the_reason(
    own_file: Path, factory: str, message: str, device: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build_model(resolve_spec(f"{own_file}:{factory}"), device=device)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_can_not_be_imported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no file .*gone.py; .*FILE.py:FACTORY"):
        build_model(resolve_spec(f"{tmp_path / 'gone.py'}:make"))
    for text, message in (("def make(:", "SyntaxError"), ("import no_such_module_here", "No module named"),
                          ("import sys; sys.exit(3)", "SystemExit")):  # fmt: skip
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(ModelError, match=rf"bad.py can't be imported: .*{message}") as caught:
            build_model(resolve_spec(f"{tmp_path / 'bad.py'}:make"))
        assert "\n" not in str(caught.value)


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "deepreduce_test_neighbour.py").write_text("WIDTH = 5\n")
    (tmp_path / "own.py").write_text(
        "from torch import nn\nfrom deepreduce_test_neighbour import WIDTH\n\n"
        "def make():\n    return nn.Linear(WIDTH, 2)\n"
    )
    model = build_model(resolve_spec(f"{tmp_path / 'own.py'}:make"))
    assert isinstance(model, nn.Linear) and model.in_features == 5
