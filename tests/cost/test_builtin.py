"""The presets' figures, against what their sources say of whole networks."""

from __future__ import annotations

import statistics

import pytest
import torch

from deepreduce.cost.builtin import CHEETAH, DELPHI, DELPHI_CIRCA, SEMI2K
from deepreduce.cost.model import Amounts, CostModel
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.cost_layers import layers_of
from deepreduce.plan import ReductionPlan
from deepreduce.private.calibration_networks import judging_networks
from deepreduce.sites import ChannelMask
from deepreduce.transforms import apply_plan, collapse, cull, thin


def resnet18() -> Network:
    spec = resolve_spec("resnet18")
    return trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)


def test_delphi_spends_on_resnet18_what_its_source_says() -> None:
    layers = layers_of(resnet18())
    online, offline = DELPHI.online.total(layers), DELPHI.offline.total(layers)
    relus = 557_056
    assert online.bytes == relus * 1_184
    assert offline.bytes == pytest.approx(relus * 19_088 + 321e6 + 47e6)
    linear = offline.seconds - relus * (30.5e-6 + 7.6e-6)
    assert linear == pytest.approx(286, rel=0.05)
    assert online.seconds == pytest.approx(relus * (18.3e-6 + 3.6e-6) + 555_422_720 * 0.77e-9)


def test_what_a_culled_relu_saves_online_is_near_what_deepreduce_published() -> None:
    network = resnet18()
    less = cull(network, ["S1"])
    before, after = (DELPHI.online.total(layers_of(n)).seconds for n in (network, less))
    # 19.2 us per ReLU, from the published points
    assert (before - after) / (network.relu_count - less.relu_count) == pytest.approx(19.2e-6, rel=0.2)


def test_a_mask_saves_what_its_relus_cost_under_every_protocol() -> None:
    network = resnet18()
    sites = {s.name: ChannelMask.of(torch.arange(s.shape[0]) % 4 == 0) for s in network.sites}
    masked = apply_plan(network, ReductionPlan(sites=tuple(sites.items())))
    assert masked.relu_count == 557_056 // 4
    whole, kept = layers_of(network), layers_of(masked)
    for model, each in ((DELPHI, 1_184), (DELPHI_CIRCA, 1_184), (SEMI2K, 144), (CHEETAH, 98.5)):
        before, after = model.online.total(whole), model.online.total(kept)
        assert before.bytes - after.bytes == pytest.approx(557_056 * 3 / 4 * each)
        assert before.messages == after.messages  # one channel waits for as many as all


def test_circa_makes_relus_cheaper_and_leaves_the_rest() -> None:
    layers = layers_of(resnet18())
    delphi, circa = DELPHI.online.total(layers), DELPHI_CIRCA.online.total(layers)
    saved = DELPHI.offline.total(layers).bytes - DELPHI_CIRCA.offline.total(layers).bytes
    assert saved == pytest.approx(557_056 * 19_088 * (1 - 1 / 4.7))
    assert circa.seconds < delphi.seconds / 2
    assert circa.messages == delphi.messages == 2 * 17


# measured apart from what the rates are fitted to: ResNet-18 with all ReLUs, and with 163,840, on another idle
# two-core machine, 2026-11-23; the others on two cores of an AMD EPYC, 2026-11-25
_WHOLE = [(CHEETAH, 557_056, 51.6), (CHEETAH, 163_840, 44.4), (SEMI2K, 557_056, 9.06), (SEMI2K, 163_840, 8.24)]
_NARROW = {
    "resnet18 of width 16": (2.22, 11.66),
    "resnet18, S1 culled and collapsed": (2.10, 9.08),
    "resnet18, S1 and S4 culled, thinned": (1.15, 6.33),
    "resnet20 of width 16": (2.03, 11.78),
    "vgg16_bn of width 16": (1.65, 7.95),
    "resnet32 of width 12": (2.27, 9.63),
}


@pytest.mark.parametrize(("model", "relu_count", "seconds"), _WHOLE)
def test_spu_spends_on_resnet18_what_was_measured(model: CostModel, relu_count: int, seconds: float) -> None:
    assert _online_cost(model, relu_count).seconds == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize(("model", "place"), [(SEMI2K, 0), (CHEETAH, 1)])
def test_spu_spends_on_narrow_networks_what_was_measured(model: CostModel, place: int) -> None:
    errors = []
    for network in judging_networks():
        estimate = model.online.total(layers_of(collapse(network).network)).seconds
        errors.append(abs(estimate / _NARROW[network.name][place] - 1))
    assert statistics.median(errors) < 0.1 and max(errors) < 0.15, errors


@pytest.mark.parametrize(("relu_count", "sent"), [(557_056, 331.3e6), (163_840, 274.7e6)])
def test_semi2k_sends_for_resnet18_what_was_measured(relu_count: int, sent: float) -> None:
    assert _online_cost(SEMI2K, relu_count).bytes == pytest.approx(sent, rel=0.01)


def _online_cost(model: CostModel, relu_count: int) -> Amounts:
    network = resnet18()
    if relu_count < network.relu_count:
        network = thin(cull(network, ["S1"]), stages=["S2"])
    assert network.relu_count == relu_count
    return model.online.total(layers_of(collapse(network).network))
