"""The networks of a calibration cover what a layer's cost depends on; those that judge it are others."""

from __future__ import annotations

import torch
from torch import nn

from deepreduce.network.cost_layers import layers_of
from deepreduce.private.calibration_networks import calibration_networks, judging_networks


def test_no_judged_network_is_one_of_those_fitted_to() -> None:
    fitted, judged = (
        {repr(layers_of(network)) for network in networks()} for networks in (calibration_networks, judging_networks)
    )
    assert (len(fitted), len(judged)) == (4, 6)
    assert not fitted & judged


def test_the_fitted_convolutions_cover_kernels_channels_strides_and_groups() -> None:
    convolutions = [
        module
        for network in calibration_networks()
        for module in network.module.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert {convolution.kernel_size[0] for convolution in convolutions} == {1, 3, 5, 7, 11}
    channels = {convolution.in_channels for convolution in convolutions}
    channels |= {convolution.out_channels for convolution in convolutions}
    assert (min(channels), max(channels)) == (3, 256)
    assert {convolution.stride[0] for convolution in convolutions} == {1, 2}
    assert {convolution.groups for convolution in convolutions} == {1, 16}


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (calibration_networks(seed=1)[0].module.state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(torch.get_rng_state(), before)
