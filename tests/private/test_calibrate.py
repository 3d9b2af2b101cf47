"""A calibration is fitted to some networks and judged on others, here with costs that are made up."""

from __future__ import annotations

import json
from functools import partial
from operator import attrgetter

import pytest
from torch import Tensor

from deepreduce.cost.fit import Amounts
from deepreduce.cost.link import LINKS
from deepreduce.cost.model import CostModel, Phase
from deepreduce.errors import UserError
from deepreduce.network import Network
from deepreduce.network.cost_layers import layers_of
from deepreduce.private import calibrate as module
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.protocol import PROTOCOLS
from deepreduce.private.result import Agreement, LayerCost, PrivateRun, Query, Spread
from tests.helpers.private_networks import needs_engine, small_resnet

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
        cost = TRUTH.online.total([layer])
        seconds = Spread.of([cost.seconds] * repeats)
        layers.append(
            LayerCost(
                name=layer.name,
                kind="any",
                seconds=seconds,
                bytes=round(cost.bytes),
                serial_bytes=round(cost.bytes / 2),
                sent_messages=round(cost.messages),
                messages=round(cost.messages),
            )
        )
    return PrivateRun(
        network=network.name,
        relu_count=network.relu_count,
        protocol=PROTOCOLS[protocol],
        layers=tuple(layers),
        queries=(
            Query(
                seconds=sum(layer.seconds.median for layer in layers),
                bytes=sum(layer.bytes for layer in layers),
                serial_bytes=sum(layer.serial_bytes for layer in layers),
                sent_messages=sum(layer.sent_messages for layer in layers),
                messages=sum(layer.messages for layer in layers),
            ),
        ),
        setup_seconds=0.0,
        agreement=Agreement(images=1, same_argmax=1, max_abs_error=0.0, max_abs_logit=1.0),
        logits=((0.0,),),
    )


def test_a_calibration_is_judged_on_six_networks_that_it_was_not_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", made_up)
    lines: list[str] = []
    found = module.calibrate("semi2k", name="mine-semi2k", repeats=3, report=lines.append)
    assert len(found.verdicts) == 6
    for of in (attrgetter("seconds"), attrgetter("bytes"), partial(Amounts.latency, link=LINKS["wan"])):
        assert all(abs(verdict.error(of)) < 0.01 for verdict in found.verdicts)
    assert len(lines) == 10 and "under semi2k (trusted dealer: a cost reference)" in lines[0]
    text = found.to_text()
    assert "Median errors, on networks outside the fit: 0.0% s, loopback, 0.0% s, lan, 0.0% s, wan." in text
    assert text.splitlines()[0] == "mine-semi2k, of semi2k (trusted dealer: a cost reference)"
    value = json.loads(json.dumps(found.to_json()))
    assert CostModel.from_json(value["model"]) == found.model


@pytest.mark.slow
@needs_engine
def test_on_the_engine_bytes_and_messages_of_another_network_are_estimated_exactly() -> None:
    found = module.calibrate("semi2k", name="mine-semi2k", repeats=1, judged=[small_resnet()], timeout_s=120)
    (verdict,) = found.verdicts
    assert abs(verdict.error(attrgetter("bytes"))) < 0.005
    assert abs(verdict.error(attrgetter("messages"))) < 0.02
    assert verdict.measured.seconds > 0 and found.model.online.seconds
    assert found.model.online.bytes["comparisons"] == pytest.approx(144)  # of a ReLU, as SPU sends them


def test_a_protocol_without_a_form_of_model_is_refused() -> None:
    with pytest.raises(UserError, match="unknown protocol of a cost model 'delphi'"):
        module.calibrate("delphi", name="mine")
