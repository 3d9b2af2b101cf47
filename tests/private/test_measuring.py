"""A measurement agrees with PyTorch, counts every layer under its name, and adds up."""

from __future__ import annotations

import csv
import io
import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from deepreduce.cost.link import LINKS
from deepreduce.errors import UserError
from deepreduce.export.onnx import export_network, relus_in_onnx
from deepreduce.network import Network
from deepreduce.network.cost_layers import layers_of
from deepreduce.plan import ReductionPlan
from deepreduce.private import PrivateRun, measure
from deepreduce.private.lowering.aten_graph import prepare
from deepreduce.private.parties.processes import HOST
from deepreduce.sites import actions_in
from deepreduce.transforms import apply_plan
from tests.helpers.actions import EXAMPLES
from tests.helpers.private_networks import images, needs_engine, small_resnet
from tests.helpers.private_runs import REFILL, answer, run_of


@pytest.fixture(scope="module")
def run() -> PrivateRun:
    network = small_resnet()
    return measure(network, images(4, network), protocol="semi2k", repeats=5, timeout_s=60)


def test_logits_and_predictions_agree_with_pytorch(run: PrivateRun) -> None:
    assert (run.agreement.images, run.agreement.same_argmax) == (4, 4)
    assert run.agreement.max_abs_error < 0.01 * run.agreement.max_abs_logit
    network = small_resnet()
    with torch.no_grad():
        expected = network.module(images(4, network))
    np.testing.assert_allclose(np.array(run.logits), expected.numpy(), atol=0.01)


def test_every_site_and_layer_is_measured_under_its_own_name(run: PrivateRun) -> None:
    network = prepare(small_resnet())
    kinds = {layer.name: layer.kind for layer in run.layers}
    assert len(kinds) == len(run.layers)
    assert {site.name: "relu" for site in network.sites}.items() <= kinds.items()
    assert {layer.name for layer in network.linear_layers} <= set(kinds)
    assert run.seconds.count == 5 and all(layer.seconds.count == 5 for layer in run.layers)
    assert all(layer.seconds.low <= layer.seconds.median <= layer.seconds.high for layer in run.layers)


def test_bytes_and_messages_follow_from_what_a_layer_computes(run: PrivateRun) -> None:
    costs = {layer.name: layer for layer in run.layers}
    sites = small_resnet().sites
    per_relu = {costs[site.name].bytes / site.relu_count for site in sites}
    assert per_relu == {144}  # the same for each ReLU, however many there are
    assert {costs[site.name].messages for site in sites} == {8}
    assert all(layer.bytes >= layer.serial_bytes for layer in run.layers)
    assert all(layer.bytes == 0 for layer in run.layers if layer.kind == "add")


@pytest.fixture(scope="module")
def masked() -> Network:
    network = small_resnet()
    draw = random.Random(0)
    kinds = ("channel_mask", "pixel_mask", "first_channels")
    actions = {site.name: EXAMPLES[kinds[i % 3]](site, draw) for i, site in enumerate(network.sites)}
    return apply_plan(network, ReductionPlan(sites=tuple(actions.items())))


@pytest.fixture(scope="module")
def masked_run(masked: Network) -> PrivateRun:
    return measure(masked, images(3, masked), protocol="semi2k", repeats=3, timeout_s=60)


def test_a_masked_network_predicts_what_pytorch_predicts(masked: Network, masked_run: PrivateRun) -> None:
    agreement = masked_run.agreement
    assert (agreement.images, agreement.same_argmax) == (3, 3)
    assert agreement.max_abs_error < 0.01 * agreement.max_abs_logit
    assert masked_run.relu_count == masked.relu_count < small_resnet().relu_count


def test_the_elements_that_masks_keep_are_compared_and_no_other_as_their_price_says(
    masked: Network, masked_run: PrivateRun
) -> None:
    sent = {layer.name: layer.bytes for layer in masked_run.layers}
    priced = {layer.name: layer for layer in layers_of(masked)}
    for site in masked.sites:
        assert sent[site.name] == 144 * site.relu_count, site
        if actions_in(masked)[site.name].kind != "first_channels":
            assert priced[site.name].comparisons == site.relu_count


def test_analyzer_onnx_and_engine_count_the_same_relus(
    masked: Network, masked_run: PrivateRun, tmp_path: Path
) -> None:
    report = export_network(masked, tmp_path / "masked.onnx", to="onnx", images=images(2, masked))
    sent = sum(layer.bytes for layer in masked_run.layers if layer.kind == "relu")
    assert masked.relu_count == report.relu_count == relus_in_onnx(tmp_path / "masked.onnx") == sent / 144


def test_kinds_and_totals_are_sums_over_layers(run: PrivateRun) -> None:
    assert sum(kind.layers for kind in run.kinds) == len(run.layers)
    assert sum(kind.bytes for kind in run.kinds) == run.bytes
    assert sum(kind.messages for kind in run.kinds) == run.messages
    assert 0.3 * run.seconds.median < sum(kind.seconds for kind in run.kinds) < 1.5 * run.seconds.median


def test_a_link_adds_bytes_over_bandwidth_and_delays_of_messages(run: PrivateRun) -> None:
    serial = sum(layer.serial_bytes for layer in run.layers)
    wan = run.seconds.median + 8 * serial / 400e6 + run.messages * 0.02
    assert run.seconds_over(LINKS["wan"]) == pytest.approx(wan)
    assert run.seconds_over(LINKS["loopback"]) == run.seconds.median
    assert "computed from that, not measured" in run.to_text(LINKS["wan"])
    assert "computed" not in run.to_text(LINKS["loopback"])


def test_tables_hold_what_was_measured_and_name_the_dealer(run: PrivateRun) -> None:
    rows = list(csv.DictReader(io.StringIO(run.to_csv())))
    assert [row["name"] for row in rows] == [layer.name for layer in run.layers]
    assert sum(int(row["bytes"]) for row in rows) == run.to_json()["bytes"] == run.bytes
    for text in (run.to_text(LINKS["loopback"]), str(run.to_json())):
        assert "trusted dealer: a cost reference" in text


def test_a_refill_in_another_layer_each_time_is_part_of_every_query() -> None:
    found = run_of([answer(2.0, 0), answer(3.0, 1), answer(4.0, 2)])
    assert found.bytes == 2 * 8_000 * (23 + REFILL)  # both parties send all of it
    assert sum(layer.bytes for layer in found.layers) == 2 * 8_000 * 23
    assert {query.sent_messages for query in found.queries} == {2 * (23 + REFILL)}
    # under cheetah a convolution's bytes alternate, a ReLU's are sent both ways at once
    assert [query.serial_bytes for query in found.queries] == [
        8_000 * (25 + 2 * REFILL), 8_000 * (25 + REFILL), 8_000 * (25 + REFILL)
    ]  # fmt: skip
    assert found.seconds.median == 3.0
    assert f"{found.bytes:,} bytes" in found.to_text(LINKS["loopback"])


def test_an_unknown_protocol_is_refused_before_anything_else() -> None:
    network = small_resnet()
    with pytest.raises(UserError, match=r"unknown protocol 'chetah'; did you mean 'cheetah'\?"):
        measure(network, images(1, network), protocol="chetah")


@needs_engine
def test_images_of_another_shape_are_refused() -> None:
    network = small_resnet()
    with pytest.raises(UserError, match=r"images of shape \(1, 1, 4, 4\)"):
        measure(network, images(1, network)[..., :4, :4])


@needs_engine
@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_not_positive_and_finite_is_refused(timeout_s: float) -> None:
    network = small_resnet()
    with pytest.raises(UserError, match=r"timeout_s is .*; give seconds, more than 0"):
        measure(network, images(1, network), protocol="semi2k", timeout_s=timeout_s)


@needs_engine
def test_a_port_in_use_is_named_before_anything_starts() -> None:
    network = small_resnet()
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} can't be used"):
            measure(network, images(1, network), protocol="semi2k", ports=[port, 0])
