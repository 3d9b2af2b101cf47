"""Predictions, accuracy and churn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepreduce.errors import UserError
from deepreduce.training import Predictions, churn, predict
from tests.helpers.images import striped
from tests.helpers.training import tiny


def predictions(predicted: list[int], labels: list[int]) -> Predictions:
    return Predictions(predicted=torch.tensor(predicted), labels=torch.tensor(labels))


def test_accuracy_is_the_share_that_is_right_and_churn_the_share_that_differs() -> None:
    one, other = predictions([0, 1, 2, 2], [0, 1, 2, 0]), predictions([0, 1, 1, 2], [0, 1, 2, 0])
    assert one.accuracy == 0.75
    assert churn(one, other) == churn(other, one) == 0.25
    assert churn(one, one) == 0


def test_churn_of_different_images_is_refused() -> None:
    with pytest.raises(UserError, match="of different splits"):
        churn(predictions([0], [0]), predictions([0], [1]))


@pytest.mark.parametrize("training", [True, False])
def test_a_prediction_leaves_mode_and_statistics_and_covers_every_image(training: bool) -> None:
    module, data = tiny().train(training), striped(train=40, test=10)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = [predict(module, data.test, batch_size=size) for size in (3, 10, 256)]
    assert module.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.equal(found[0].labels, data.test.labels)
    assert all(torch.equal(found[0].predicted, other.predicted) for other in found)


def test_the_mode_comes_back_after_an_error_too() -> None:
    module = nn.Sequential(nn.Linear(1, 1)).train()
    with pytest.raises(RuntimeError):
        predict(module, striped(train=40, test=10).test, batch_size=4)
    assert module.training
