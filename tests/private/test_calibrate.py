"""Calibration fits to some networks and is judged on others, here with costs that are made up."""

from __future__ import annotations

import json

import pytest
from torch import Tensor

from deepreduce.cost.model import CostModel, Phase
from deepreduce.errors import UserError
from deepreduce.network import Network
from deepreduce.network.layers import layers_of
from deepreduce.private import calibrate as room
from deepreduce.private.calibration_networks import calibration_networks, judging_networks
from deepreduce.private.graph import prepare
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.result import Agreement, LayerCost, PrivateRun, Spread

TRUTH = CostModel(
    name="truth",
    source="made up",
    online=Phase(
        seconds={"multiplications": 2e-8, "multiplying_layers": 0.02, "comparisons": 1e-6, "comparing_layers": 0.01},
        bytes={"left": 16, "right": 16, "made": 8, "comparisons": 144},
        messages={"multiplying_layers": 2, "comparing_layers": 8},
    ),
)


def made_up(network: Network, images: Tensor, *, protocol: str, repeats: int, timeout_s: float) -> PrivateRun:
    layers = []
    for layer in layers_of(prepare(network)):
        cost = TRUTH.estimate([layer])
        seconds = Spread.of([cost.online_seconds] * repeats)
        layers.append(
            LayerCost(
                name=layer.name,
                kind="any",
                seconds=seconds,
                bytes=round(cost.online_bytes),
                serial_bytes=round(cost.online_bytes / 2),
                messages=round(cost.messages),
            )
        )
    return PrivateRun(
        network=network.name,
        relu_count=network.relu_count,
        protocol=PROTOCOLS[protocol],
        layers=tuple(layers),
        seconds=Spread.of([sum(layer.seconds.median for layer in layers)]),
        setup_seconds=0.0,
        agreement=Agreement(images=1, same_argmax=1, max_abs_error=0.0, max_abs_logit=1.0),
        logits=((0.0,),),
    )


def test_a_calibration_is_judged_on_six_networks_that_it_was_not_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "measure", made_up)
    told: list[str] = []
    found = room.calibrate("semi2k", name="mine-semi2k", repeats=3, told=told.append)
    assert len(found.verdicts) == 6
    assert all(verdict.seconds_error < 0.01 and verdict.bytes_error < 0.01 for verdict in found.verdicts)
    assert len(told) == 10 and "under semi2k" in told[0]
    assert "Median error of the seconds, on networks that the fit has not seen: 0." in found.to_text()
    value = json.loads(json.dumps(found.to_json()))
    assert CostModel.from_json(value["model"]) == found.model


def test_no_judged_network_is_one_of_those_fitted_to() -> None:
    fitted, judged = calibration_networks(), judging_networks()
    assert len(judged) >= 6
    assert not {network.name for network in fitted} & {network.name for network in judged}


def test_a_protocol_that_no_model_is_known_for_is_refused() -> None:
    with pytest.raises(UserError, match="unknown protocol of a cost model 'delphi'"):
        room.calibrate("delphi", name="mine")
