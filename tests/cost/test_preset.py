"""Networks priced under presets by name, the user's own among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepreduce.cost.model import CostModel, Phase
from deepreduce.cost.preset import calibrated_models, preset_named, prices_of, save_calibration
from deepreduce.errors import UserError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import trace_network
from deepreduce.plan import ReductionPlan
from deepreduce.transforms import apply_plan, cull_plan

MINE = CostModel(name="mine-cheetah", source="test", online=Phase(seconds={"multiplying_layers": 1.0}))


def test_a_network_is_priced_as_the_preset_makes_it_cheapest() -> None:
    spec = resolve_spec("resnet18", width=16)
    network = trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)
    culled = cull_plan(network, ["S1"])
    padded = apply_plan(network, culled.merge(ReductionPlan(pad_once=True)))
    mine = preset_named("delphi-lan")
    whole, reduced = (prices_of(n, [mine])["delphi-lan"] for n in (network, padded))
    assert reduced.online_bytes < whole.online_bytes
    assert reduced.latency < whole.latency
    # 21 layers, of which the stem and S1 are one where a layer costs a second
    layers = Phase(seconds={"multiplying_layers": 1.0})
    preset = type(mine)(model=CostModel(name="layers", source="test", online=layers), link=mine.link)
    assert [prices_of(n, [preset])["layers-lan"].latency for n in (network, padded)] == [21, 17]


def test_a_calibration_is_a_preset_by_its_name(tmp_path: Path) -> None:
    assert calibrated_models(tmp_path) == []
    save_calibration("mine-cheetah", {"model": MINE.to_json(), "verdicts": []}, folder=tmp_path / "new")
    preset = preset_named("mine-cheetah-wan", folder=tmp_path / "new")
    assert preset.model == MINE and preset.name == "mine-cheetah-wan"
    assert calibrated_models(tmp_path / "new") == ["mine-cheetah"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("delphi", "unknown cost preset 'delphi'; did you mean 'delphi-"),
        ("delphi-lann", "unknown cost preset"),
        ("delfi-lan", "unknown cost model 'delfi'; did you mean 'delphi'"),
        ("mine-semi2k-lan", "write it with 'deepreduce private calibrate --protocol semi2k'"),
    ],
)
def test_a_preset_that_is_not_there_is_refused_with_the_way_to_it(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        preset_named(name, folder=tmp_path)
