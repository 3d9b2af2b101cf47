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
        ({"name": "resnet18", "num_classes": "2"}, "positive whole numbers"),
        ({"name": 18, "num_classes": 2}, "a name in text"),
        ({"name": "resnet18", "num_classes": 2, "blocks": [2, -1]}, "positive whole numbers"),
        ({"name": "resnet18", "num_classes": 2, "witdh": 3}, "unknown key of a model's spec 'witdh'; .*'width'"),
    ],
)
def test_json_that_is_no_spec_is_refused(value: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_json(value)
