"""The method's steps with a stub for what trains: which networks it asks for, and in which order it culls."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepreduce.errors import ModelError, PlanError
from deepreduce.methods.deepreduce import (
    CRITICALITY_FORMS,
    DeepReduceOptions,
    check_cull_order,
    criticality,
    criticality_error,
    live_stages,
    measured_criticality,
    probes,
    propose,
    provisional_cull_order,
)
from deepreduce.models import ZOO, build_model, resolve_spec
from deepreduce.network import Network, trace_network
from deepreduce.transforms import apply_plan, cull, cull_plan, normalise_plan
from tests.helpers.zoo import TOYS


def network_of(name: str, *, size: int = 32, blocks: list[int] | None = None) -> Network:
    spec = resolve_spec(name, blocks=blocks)
    return trace_network(build_model(spec, device="meta"), (3, size, size), spec=spec)


# -- criticality --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "mobilenet_v2"])
def test_there_is_one_probe_per_stage_and_it_has_that_stages_relus_only(name: str) -> None:
    network = network_of(name, blocks=[1] * len(ZOO[name].blocks))
    counts = network.stage_relu_counts
    found = probes(network)
    assert list(found) == list(counts)
    for stage, probe in found.items():
        reduced = apply_plan(network, probe.plan)
        assert reduced.stage_relu_counts == dict.fromkeys(counts, 0) | {stage: counts[stage]}
        assert probe.relu_count == counts[stage]
        assert probe.macs == network.macs


def test_a_network_of_one_stage_has_nothing_to_probe() -> None:
    network = TOYS["method"].network()
    assert probes(network) == {}


def test_stages_are_culled_in_the_order_of_their_measured_criticality() -> None:
    network = network_of("resnet18")
    accuracies = {"S1": 0.3, "S2": 0.5, "S3": 0.7, "S4": 0.4}
    measured = measured_criticality(network, accuracies, form="ratio", exponent=0.0)
    assert measured.cull_order == ("S1", "S4", "S2")  # the paper's on CIFAR-100: S3 is the most critical and stays
    assert measured.criticality == accuracies  # an exponent of 0 leaves the accuracy alone
    assert measured.val_accuracy == accuracies


def test_the_ratio_form_weighs_accuracy_by_the_share_of_relus() -> None:
    worth = criticality({"a": 0.5, "b": 0.5}, {"a": 300, "b": 100}, form="ratio", exponent=0.5)
    assert worth == {"a": pytest.approx(0.5 * 0.75**-0.5), "b": pytest.approx(0.5 * 0.25**-0.5)}


def test_the_difference_form_weighs_the_gain_over_the_worst_stage() -> None:
    worth = criticality({"a": 0.7, "b": 0.5}, {"a": 100, "b": 400}, form="difference", exponent=0.5)
    assert worth == {"a": pytest.approx(0.2 / 10), "b": 0.0}


@given(
    st.sampled_from(CRITICALITY_FORMS), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(1, 10**6), st.floats(0, 1)
)
def test_more_accuracy_from_no_more_relus_is_worth_no_less(
    form: str, low: float, high: float, relus: int, exponent: float
) -> None:
    low, high = sorted((low, high))
    worth = criticality({"a": low, "b": high}, {"a": 2 * relus, "b": relus}, form=form, exponent=exponent)
    assert worth["a"] <= worth["b"]


def test_of_equally_critical_stages_the_one_with_more_relus_goes_first() -> None:
    network = network_of("resnet18")
    equal = dict.fromkeys(network.stages, 0.5)
    order = measured_criticality(network, equal, form="ratio", exponent=0.0).cull_order
    assert order == ("S1", "S2", "S3")
    assert provisional_cull_order(network) == order


def test_of_stages_that_can_not_be_told_apart_the_one_with_more_relus_goes_first() -> None:
    """Standard errors by hand: of 0.5 on 100 images 0.05, so 0.07 for a difference; on 10,000 a tenth of that."""
    network = network_of("resnet18")
    accuracies = {"S1": 0.56, "S2": 0.5, "S3": 0.64, "S4": 0.7}
    for images, expected in ((100, ("S1", "S2", "S3")), (10_000, ("S2", "S1", "S3")), (None, ("S2", "S1", "S3"))):
        measured = measured_criticality(network, accuracies, form="ratio", exponent=0.0, images=images)
        assert measured.cull_order == expected and measured.criticality == accuracies
    # and what is certain needs no images: of a stage with accuracy 0 or 1 nothing is in doubt
    certain = {"S1": 1.0, "S2": 0.0, "S3": 1.0, "S4": 1.0}
    measured = measured_criticality(network, certain, form="ratio", exponent=0.0, images=10)
    assert measured.cull_order == ("S2", "S1", "S3")


@pytest.mark.parametrize(("form", "scale"), [("ratio", (0.25) ** -0.5), ("difference", 100**-0.5)])
def test_the_error_of_a_criticality_is_that_of_its_accuracy_times_its_weight(form: str, scale: float) -> None:
    error = criticality_error(0.8, 100, 400, form=form, exponent=0.5, images=400)
    assert error == pytest.approx(0.02 * scale)
    assert criticality_error(0.8, 100, 400, form=form, exponent=0.5, images=None) == 0


def test_probes_may_be_narrow() -> None:
    network = network_of("resnet18", blocks=[1, 1, 1, 1])
    for stage, probe in probes(network, alpha=0.25).items():
        reduced = apply_plan(network, probe.plan)
        counts = reduced.stage_relu_counts
        assert counts == {s: n // 4 if s == stage else 0 for s, n in network.stage_relu_counts.items()}
        assert probe.label == f"only {stage}, alpha 0.25"
    with pytest.raises((PlanError, ModelError)):
        probes(network, alpha=1e-6)


def test_an_unknown_form_is_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match="unknown form of criticality 'ratios'; did you mean 'ratio'"):
        criticality({"a": 1.0}, {"a": 1}, form="ratios", exponent=1.0)


# -- the order ----------------------------------------------------------------------------------------------


def test_an_order_may_leave_stages_out_but_not_cull_them_all() -> None:
    network = network_of("resnet18")
    assert check_cull_order(network, ["S1", "S4"]) == ("S1", "S4")
    assert check_cull_order(network, []) == ()
    with pytest.raises(PlanError, match="cull order S1, S2, S3, S4 leaves resnet18 no ReLU"):
        check_cull_order(network, ["S1", "S2", "S3", "S4"])
    with pytest.raises(PlanError, match="leaves resnet18 no ReLU"):
        check_cull_order(cull(network, ["S4"]), ["S1", "S2", "S3"])


@pytest.mark.parametrize(
    ("order", "message"), [(["S5"], "resnet18: unknown stage 'S5'"), (["S1", "S1"], "names a stage twice")]
)
def test_an_order_of_wrong_stages_is_refused(order: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_cull_order(network_of("resnet18"), order)


# -- proposals ----------------------------------------------------------------------------------------------

METHODS = (
    DeepReduceOptions(),
    DeepReduceOptions(thin_keep="both"),
    DeepReduceOptions(thin_keep="last", alphas=(1.0,), rhos=(1.0,)),
    DeepReduceOptions(alphas=(1.0, 0.5, 0.25), rhos=(0.5,)),
)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("resnet20", method) for method in METHODS),
        ("wrn22_8", METHODS[2]),
        ("vgg16_bn", METHODS[2]),
        ("mobilenet_v2", METHODS[1]),
    ],
)
def test_the_number_of_networks_is_linear_in_the_number_of_stages(name: str, options: DeepReduceOptions) -> None:
    blocks = [1] * len(ZOO[name].blocks) if name != "vgg16_bn" else None
    network = network_of(name, size=64 if name == "vgg16_bn" else 32, blocks=blocks)
    levels = len(live_stages(network)) - 1
    reshapes = sum((alpha, rho) != (1, 1) for alpha in options.alphas for rho in options.rhos)
    ways = 2 if options.thin_keep == "both" else 1
    asked = levels * (1 + ways * (1 + reshapes))
    proposals = propose(network, provisional_cull_order(network), options)
    # of one ReLU, or of three in a chain, the first and the last alternation are the same
    assert levels * (1 + reshapes) <= len(proposals.networks) <= asked
    if name in ("resnet20", "wrn22_8"):
        assert len(proposals.networks) == asked


def test_proposals_are_exact_distinct_in_normal_form_and_most_relus_first() -> None:
    network = network_of("resnet20", blocks=[2, 2, 2])
    proposals = propose(network, ("S1", "S2"), DeepReduceOptions(thin_keep="both", depths=((1, 1, 1), (2, 2, 2))))
    counts = [proposal.relu_count for proposal in proposals.networks]
    assert counts == sorted(counts, reverse=True)
    assert len({proposal.plan_id for proposal in proposals.networks}) == len(counts)
    assert len({proposal.label for proposal in proposals.networks}) == len(counts)
    for proposal in proposals.networks:
        reduced = apply_plan(network, proposal.plan)
        assert (reduced.relu_count, reduced.macs) == (proposal.relu_count, proposal.macs)
        assert normalise_plan(network, proposal.plan) == proposal.plan
        assert 0 < proposal.relu_count < network.relu_count


def test_each_culling_contains_the_next() -> None:
    network = network_of("resnet18")
    culled = {p.label: set(p.plan.linearized) for p in propose(network, ("S2", "S1"), DeepReduceOptions()).networks}
    assert culled["cull S2"] < culled["cull S2 S1"]
    assert culled["cull S2"] < culled["cull S2, thin"]


def test_a_network_of_one_stage_is_thinned_and_reshaped_only() -> None:
    network = TOYS["functional"].network()
    proposals = propose(network, (), DeepReduceOptions())
    assert [(p.label, p.relu_count) for p in proposals.networks] == [
        ("all stages, thin", 2 * 4 * 8 * 8),
        ("all stages, thin, alpha 0.5", 2 * 2 * 8 * 8),
        ("all stages, thin, rho 0.5", 2 * 4 * 4 * 4),
        ("all stages, thin, alpha 0.5 rho 0.5", 2 * 2 * 4 * 4),
    ]
    assert not proposals.left_out and not proposals.notes


def test_what_alpha_can_not_scale_is_told() -> None:
    proposals = propose(trace_network(Doubled(), (3, 8, 8)), (), DeepReduceOptions(rhos=(1.0,)))
    (note,) = proposals.notes
    assert "not scaled: first (3 channels), because they meet the image or a constant" in note


class Doubled(nn.Module):
    """Its first convolution is added to the image, so it needs as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.second(F.relu(self.first(x) + x))).mean(dim=(2, 3)))


def test_a_network_that_nothing_reduces_is_refused_with_the_reasons() -> None:
    with pytest.raises(PlanError, match="nothing to cull, thin or reshape"):
        propose(TOYS["in-place, shared"].network(), (), DeepReduceOptions(alphas=(1.0,), rhos=(1.0,)))


def test_what_has_as_many_relus_as_the_full_network_is_left_out() -> None:
    network = cull(network_of("resnet18"), ["S1"])
    assert all(p.relu_count < network.relu_count for p in propose(network, ("S2",), DeepReduceOptions()).networks)


def test_a_network_whose_strides_exceed_its_maps_is_left_out_with_the_reason() -> None:
    network = network_of("resnet18", size=8)  # maps of 8, 4, 2, 1; half of that leaves nothing for S4
    proposals = propose(network, ("S1", "S2"), DeepReduceOptions())
    assert all(proposal.plan.rho == 1 for proposal in proposals.networks)
    assert len(proposals.networks) == 2 * 3  # culled, thinned, alpha
    (reason,) = proposals.left_out
    assert "too small for resnet18: the stride of stage4.0.conv1" in reason
    assert "cull S1, thin, rho 0.5; cull S1, thin, alpha 0.5 rho 0.5; cull S1 S2, thin, rho 0.5" in reason


def test_a_resolution_that_pooling_can_not_take_is_left_out_with_the_reason() -> None:
    proposals = propose(network_of("vgg16_bn"), ("S1",), DeepReduceOptions(rhos=(1.0, 0.25)))
    assert [p.plan.rho for p in proposals.networks] == [1.0] * 3
    assert proposals.left_out
    assert all("rho 0.25 does not fit vgg16_bn" in reason for reason in proposals.left_out)


def test_stages_that_thinning_can_not_thin_are_still_culled_and_reshaped() -> None:
    network = TOYS["strided"].network()  # one ReLU per stage
    proposals = propose(network, ("S1", "S2"), DeepReduceOptions(alphas=(1.0,), rhos=(1.0, 0.5)))
    assert {p.label for p in proposals.networks} >= {"cull S1", "cull S1 S2"}
    assert not any("thin" in p.label for p in proposals.networks)
    assert any("drops no ReLU" in reason and "cull S1, thin" in reason for reason in proposals.left_out)


def test_depths_go_with_the_smallest_alpha_and_rho() -> None:
    network = network_of("resnet18")
    options = DeepReduceOptions(alphas=(1.0, 0.5, 0.25), rhos=(1.0, 0.5), depths=((2, 1, 1, 1), (1, 1, 1, 1)))
    shallow = [p for p in propose(network, ("S1",), options).networks if p.plan.depth is not None]
    assert {p.plan.depth for p in shallow} == set(options.depths or ())
    assert {(p.plan.alpha, p.plan.rho) for p in shallow} == {(0.25, 0.5)}
    # a culled stage has no ReLUs at any depth; of the others each keeps one of one block
    assert {p.relu_count for p in shallow} == {128 // 4 * 8**2 + 256 // 4 * 4**2 + 512 // 4 * 2**2}


def test_proposing_changes_nothing_of_the_network() -> None:
    network = TOYS["chain"].network()
    code, sites = network.module.code, network.sites
    propose(network, ("S1",), DeepReduceOptions())
    assert (network.module.code, network.sites) == (code, sites)
    assert cull_plan(network, ["S1"]).linearized  # its sites are all still there
