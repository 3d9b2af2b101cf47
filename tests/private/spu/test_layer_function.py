"""Errors in a layer's function name the layer and the operation."""

from __future__ import annotations

from typing import Any

import pytest

from deepreduce.errors import UserError
from deepreduce.private.lowering.program import UnsupportedError
from tests.helpers.plain_engine import lowered
from tests.helpers.zoo import TOYS

pytest.importorskip("jax", reason="kernels are JAX functions: pip install 'deepreduce[private]'")


def test_an_error_while_shapes_are_evaluated_names_the_layer_and_the_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from deepreduce.private.spu.kernels import KERNELS

    network = TOYS["chain"].network()
    site = network.sites[0].name

    def broken(x: Any, *, shape: tuple[int, ...]) -> Any:
        raise ValueError("no such thing\nand more")

    monkeypatch.setitem(KERNELS, "relu", broken)
    with pytest.raises(
        UserError, match=rf"{site} computes relu in a way .* \(ValueError: no such thing\)$"
    ) as caught:
        lowered(network)
    assert isinstance(caught.value.__cause__, UnsupportedError)
    assert isinstance(caught.value.__cause__.__cause__, ValueError)
    monkeypatch.setitem(KERNELS, "relu", lambda x, *, shape: x[:, 1:])
    with pytest.raises(UserError, match=rf"{site} computes relu in a way that is not supported \(its output is"):
        lowered(network)
