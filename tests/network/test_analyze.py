"""The report: what it adds up, and how it prints."""

from __future__ import annotations

import csv
import html
import io
import json
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepreduce.errors import ModelError
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import AnalysisReport, analyze_network, trace_network
from tests.helpers.zoo import TOYS


def report_of(name: str) -> AnalysisReport:
    return analyze_network(TOYS[name].network())


@pytest.mark.parametrize("name", TOYS)
def test_stages_sites_and_macs_add_up(name: str) -> None:
    report = report_of(name)
    assert sum(report.stages.values()) == sum(cost.site.relu_count for cost in report.sites) == report.relu_count
    assert sum(cost.macs for cost in report.sites) + report.macs_tail == report.macs


def test_macs_are_shown_with_the_site_they_lead_to() -> None:
    report = report_of("strided")
    # 3x3 convolutions of 3 -> 4, 4 -> 4 and 4 -> 4 channels; then 4 -> 3 logits
    assert [cost.macs for cost in report.sites] == [9 * 3 * 4 * 8**2, 9 * 4 * 4 * 3**2, 9 * 4 * 4 * 2**2]
    assert report.macs_tail == 4 * 3


def test_json_has_the_keys_that_scripts_read() -> None:
    report = report_of("basic")
    value = json.loads(json.dumps(report.to_json()))
    assert {"model", "input_size", "relu_count", "stages", "sites", "macs", "unsupported"} <= value.keys()
    assert value["input_size"] == 8
    assert value["relu_count"] == TOYS["basic"].expected_relus
    assert value["sites"][1].items() >= {
        "name": "blocks.0.relu1", "stage": "S1", "block": "blocks.0", "shape": [4, 8, 8], "relu_count": 4 * 8 * 8
    }.items()  # fmt: skip
    assert value["gc_offline_bytes"] == 19_088 * report.relu_count


@pytest.mark.parametrize("name", TOYS)
def test_csv_has_a_row_per_site_and_shares_of_one(name: str) -> None:
    report = report_of(name)
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    hidden = sum(n for kind, n in report.unsupported_elements.items() if kind.startswith("relu inside"))
    if hidden:
        assert int(rows.pop()["relu_count"]) == hidden == report.uncounted_relus  # (in no site)
    assert [row["name"] for row in rows] == [cost.site.name for cost in report.sites]
    assert [int(row["relu_count"]) for row in rows] == [cost.site.relu_count for cost in report.sites]
    if rows:
        assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_text_shows_totals_stages_and_what_is_not_counted(name: str) -> None:
    report = report_of(name)
    text = report.to_text()
    assert f"{report.relu_count:,} ReLUs in {len(report.sites)} sites" in text
    assert all(f"{count:,}" in text for count in report.stages.values())
    assert all(f"{kind} x{count}" in text for kind, count in report.unsupported.items())
    assert ("second comparison" in text) == any(cost.site.kind == "relu6" for cost in report.sites)
    assert max(len(line) for line in text.splitlines()) <= 118 or report.unsupported


@pytest.mark.parametrize("name", TOYS)
def test_a_notebook_shows_a_row_for_each_stage_and_folds_one_for_each_site(name: str) -> None:
    report = report_of(name)
    stages, folded = report._repr_html_().split("<details>")
    assert stages.count("<tr>") == 1 + len(report.stages)
    assert all(f">{stage}</td>" in stages and f">{count:,}</td>" in stages for stage, count in report.stages.items())
    sites, notes = folded.split("</details>")
    # heads, what is in no site, and what follows the last ReLU
    assert sites.count("<tr>") == 1 + len(report.sites) + bool(report.uncounted_relus) + 1
    assert all(f">{html.escape(cost.site.name)}</td>" in sites for cost in report.sites)
    assert all(f"{kind} x{count}" in notes for kind, count in report.unsupported.items())


def test_a_notebook_takes_no_name_for_markup() -> None:
    report = replace(report_of("basic"), model="<script>")
    assert "<script>" not in report._repr_html_() and "&lt;script&gt;" in report._repr_html_()


def test_amounts_are_printed_with_three_digits_in_the_unit_they_round_to() -> None:
    from deepreduce.network.analyze import _short_number

    amounts = (0, 999, 1_000, 999_499, 999_500, 1_234_000, 999_999_999, 5 * 10**12)
    assert [_short_number(n) for n in amounts] == ["0", "999", "1 K", "999 K", "1 M", "1.23 M", "1 G", "5 T"]


def test_resnet152_at_224_takes_seconds_and_no_weights() -> None:
    begin = time.monotonic()
    spec = resolve_spec("torchvision:resnet152")
    module = build_model(spec, device="meta")
    assert all(parameter.is_meta for parameter in module.parameters())
    report = analyze_network(trace_network(module, (3, 224, 224), spec=spec))
    assert time.monotonic() - begin < 10
    # stem at 112x112; of each block two ReLUs as wide as its stage and one four times as wide. The first block of
    # a stage has its first ReLU before the stride, on maps of twice the size
    expected = 64 * 112**2
    for k, blocks in enumerate((3, 8, 36, 3)):
        width, size = 64 * 2**k, 56 // 2**k
        expected += blocks * (1 + 1 + 4) * width * size**2
        expected += 0 if k == 0 else width * ((2 * size) ** 2 - size**2)
    assert report.relu_count == expected


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_image_too_small_for_the_strides_is_an_error_with_the_layer(size: int) -> None:
    spec = resolve_spec("resnet18")
    network = trace_network(build_model(spec, device="meta"), (3, size, size), spec=spec)
    with pytest.raises(ModelError, match=rf"{size}x{size} is too small for resnet18: the stride of stage\d.0.conv1"):
        analyze_network(network)


def test_a_functional_layer_that_starves_is_named_by_its_call() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.conv2d(x, self.weight, stride=4))

    with pytest.raises(ModelError, match="2x2 is too small for Functional: the stride of conv2d exceeds"):
        analyze_network(trace_network(Functional(), (3, 2, 2)))


def test_an_image_of_8x8_is_large_enough_for_resnet18() -> None:
    spec = resolve_spec("resnet18")
    network = trace_network(build_model(spec, device="meta"), (3, 8, 8), spec=spec)
    assert analyze_network(network).relu_count == 557_056 // 16


def test_stages_are_printed_with_their_maps_and_the_rule_that_made_them() -> None:
    report = report_of("basic")
    rows = report.to_text().splitlines()
    assert rows[2].endswith("maps")
    assert [row.split()[-1] for row in rows[3:5]] == ["8x8", "4x4"]
    assert "Stages are inferred" in report.to_text()
    assert report.to_json()["stage_rule"] == "inferred"
    assert "8x8" in report._repr_html_()
