"""The description of an original network: JSON, and what is refused."""

from __future__ import annotations

import pytest

from deepreduce.errors import ModelError
from deepreduce.models import ModelSpec, resolve_spec


def test_a_spec_survives_json() -> None:
    for spec in (resolve_spec("resnet18", num_classes=3), resolve_spec("torchvision:resnet50")):
        assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a model's spec is a JSON object, not list"),
        ({"name": "resnet18"}, "lacks 'num_classes'"),
        ({"name": "resnet18", "num_classes": 2, "blocks": 5}, "blocks 5; it needs a list"),
        ({"name": "resnet18", "num_classes": "2"}, "whole numbers, 1 to 1,048,576"),
        ({"name": 18, "num_classes": 2}, "a name in text"),
        ({"name": "resnet18", "num_classes": 2, "blocks": [2, -1]}, "whole numbers, 1 to 1,048,576"),
        ({"name": "resnet18", "num_classes": 2, "witdh": 3}, "unknown key of a model's spec 'witdh'; .*'width'"),
    ],
)
def test_json_that_is_no_spec_is_refused(value: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_json(value)


def test_scaling_by_one_changes_nothing_and_alpha_and_depth_scale_apart() -> None:
    spec = resolve_spec("resnet18", num_classes=7)
    assert spec.scaled(alpha=1.0, depth=None) == spec
    half = spec.scaled(alpha=0.5, depth=None)
    assert (half.width, half.blocks, half.num_classes) == (32, (2, 2, 2, 2), 7)
    shallow = spec.scaled(alpha=1.0, depth=(1, 2, 1, 1))
    assert (shallow.width, shallow.blocks) == (64, (1, 2, 1, 1))
    assert spec.scaled(alpha=0.5, depth=(1, 2, 1, 1)) == half.scaled(alpha=1.0, depth=(1, 2, 1, 1))


@pytest.mark.parametrize(
    ("name", "alpha", "depth", "message"),
    [
        ("torchvision:resnet18", 0.5, None, "no width and depth to scale; .* the zoo's networks"),
        ("resnet18", 0.001, None, "alpha 0.001 of 64 stem channels gives 0"),
        ("resnet18", 0.999, None, "alpha 0.999 of 64 stem channels gives 64"),
        ("resnet18", 1.0, (1, 1), r"has 2 stages, resnet18 has 4: \[2, 2, 2, 2\]"),
        ("resnet18", 1.0, (2, 2, 3, 2), r"\[2, 2, 3, 2\] has more blocks than resnet18"),
    ],
)
def test_a_scaling_that_does_not_exist_is_refused(
    name: str, alpha: float, depth: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_spec(name).scaled(alpha=alpha, depth=depth)
