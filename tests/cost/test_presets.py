"""DELPHI's figures, against what its sources say of whole networks."""

from __future__ import annotations

import pytest

from deepreduce.cost.presets import DELPHI, DELPHI_CIRCA
from deepreduce.models import build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.network.layers import layers_of
from deepreduce.transforms import cull


def resnet18() -> Network:
    spec = resolve_spec("resnet18")
    return trace_network(build_model(spec, device="meta"), (3, 32, 32), spec=spec)


def test_delphi_spends_on_resnet18_what_its_source_says() -> None:
    estimate = DELPHI.estimate(layers_of(resnet18()))
    relus = 557_056
    assert estimate.online_bytes == relus * 1_184
    assert estimate.offline_bytes == pytest.approx(relus * 19_088 + 321e6 + 47e6)
    linear = estimate.offline_seconds - relus * (30.5e-6 + 7.6e-6)
    assert linear == pytest.approx(286, rel=0.05)
    assert estimate.online_seconds == pytest.approx(relus * (18.3e-6 + 3.6e-6) + 555_422_720 * 0.77e-9)


def test_what_a_culled_relu_saves_online_is_near_what_deepreduce_published() -> None:
    network = resnet18()
    less = cull(network, ["S1"])
    saved = DELPHI.estimate(layers_of(network)).online_seconds - DELPHI.estimate(layers_of(less)).online_seconds
    # 19.2 us per ReLU, from the published points
    assert saved / (network.relu_count - less.relu_count) == pytest.approx(19.2e-6, rel=0.2)


def test_circa_makes_relus_cheaper_and_leaves_the_rest() -> None:
    layers = layers_of(resnet18())
    delphi, circa = DELPHI.estimate(layers), DELPHI_CIRCA.estimate(layers)
    assert delphi.offline_bytes - circa.offline_bytes == pytest.approx(557_056 * 19_088 * (1 - 1 / 4.7))
    assert circa.online_seconds < delphi.online_seconds / 2
    assert circa.rounds == delphi.rounds == 17
