"""The networks of a calibration and those that judge it have nothing in common."""

from __future__ import annotations

from deepreduce.network.cost_layers import layers_of
from deepreduce.private.calibration_networks import calibration_networks, judging_networks


def test_no_judged_network_is_one_of_those_fitted_to() -> None:
    fitted, judged = (
        {repr(layers_of(n)) for n in networks()} for networks in (calibration_networks, judging_networks)
    )
    assert len(judged) >= 6
    assert not fitted & judged
