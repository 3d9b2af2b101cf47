"""Presets by name, the user's own calibrations among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepreduce.cost.model import CostModel, Phase
from deepreduce.cost.preset import calibrated_models, preset_named, save_calibration
from deepreduce.errors import UserError

MINE = CostModel(name="mine-cheetah", source="test", online=Phase(seconds={"multiplying_layers": 1.0}))


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
