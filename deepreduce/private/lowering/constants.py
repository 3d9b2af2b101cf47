"""Evaluate what a graph computes without the image, and sort it into the server's weights and public masks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from deepreduce.network import Network
from deepreduce.network.meta_run import attribute, module_tensors
from deepreduce.private.lowering.program import UnsupportedError

Array = NDArray[Any]

# torch.fx's names for tensors that forward computes during tracing; it does not record from which tensors
_COMPUTED_BY_FORWARD = re.compile(r"(^|\.)_tensor_constant\d+$")


class Constants:
    """Holds a graph's constants by node, and by name those that the program uses.

    Floating-point constants are the server's `weights`, all others are public `masks`. A tensor that is computed from
    a floating-point parameter or buffer is the server's and never becomes a mask.
    """

    def __init__(self, graph: fx.GraphModule, network: Network) -> None:
        self.weights: dict[str, Array] = {}
        self.masks: dict[str, Array] = {}
        self._graph = graph
        self._values: dict[fx.Node, Any] = {}
        self._secrets: dict[fx.Node, str] = {}  # constants that depend on the server's numbers -> how, for the error
        self._numbers = itertools.count()
        self._owners: dict[int, str] = {}  # address of a tensor's storage -> its name in the network
        for name, tensor in module_tensors(network.module):
            self._owners.setdefault(tensor.untyped_storage().data_ptr(), name)

    # -- by node ----------------------------------------------------------------------------------------------

    def __contains__(self, value: object) -> bool:
        return isinstance(value, fx.Node) and value in self._values

    def __getitem__(self, node: fx.Node) -> Any:
        return self._values[node]

    def read(self, node: fx.Node) -> None:
        """Record a tensor that the graph holds."""
        tensor: Tensor = getattr(self._graph, str(node.target)).detach()
        self._values[node] = tensor
        owner = self._owners.get(tensor.untyped_storage().data_ptr())  # None: numbers in the code of forward
        if owner is not None and _COMPUTED_BY_FORWARD.search(owner):
            self._secrets[node] = "that forward computes, perhaps from numbers that are the server's"
        elif tensor.is_floating_point() or tensor.is_complex():
            self._secrets[node] = f"computed from {owner or 'floating-point numbers'}, which is the server's"

    def compute(self, node: fx.Node) -> None:
        """Evaluate an operation on constants."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        with torch.no_grad():
            self._values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        self._mark_secret(node, node.all_input_nodes)

    def take_part(self, node: fx.Node, source: fx.Node, index: int) -> None:
        """Record one output of an operation that has several."""
        self._values[node] = self._values[source][index]
        self._mark_secret(node, [source])

    def _mark_secret(self, node: fx.Node, sources: Iterable[fx.Node]) -> None:
        """Mark the constant as the server's if one of `sources` is."""
        secrets = [self._secrets[source] for source in sources if source in self._secrets]
        if secrets:
            self._secrets[node] = secrets[0]

    # -- by name ----------------------------------------------------------------------------------------------

    def store(self, node: fx.Node, layer: str) -> str:
        """Store a constant for a layer, channels-last if it has four dimensions; return its name."""
        return self.store_tensor(node, self._values[node], layer)

    def store_tensor(self, node: fx.Node, tensor: Tensor, layer: str) -> str:
        """Store a tensor that was computed from the constant `node`; return its name.

        Raises `UnsupportedError` for a tensor that would be public although it depends on the server's numbers.
        """
        if tensor.dim() == 4:
            tensor = tensor.permute(0, 2, 3, 1)
        if tensor.is_floating_point():
            return self.store_weight(np.array(tensor.float().cpu()), layer)
        if node in self._secrets:
            raise UnsupportedError(
                f"uses a mask {self._secrets[node]}, but masks are public; compute it when the module is built and"
                " register it as a boolean buffer (an integer buffer if it selects channels by index)"
            )
        return self.store_public(tensor, layer)

    def store_public(self, tensor: Tensor, layer: str) -> str:
        """Store numbers that no number of the server's has a part in; return their name."""
        name = f"{layer}/mask{next(self._numbers)}"
        self.masks[name] = np.ascontiguousarray(np.array(tensor.cpu()))  # a copy
        return name

    def store_weight(self, array: Array, layer: str) -> str:
        """Store an array for a layer in float32, in the order of its dimensions; return its name."""
        name = f"{layer}/weight{next(self._numbers)}"
        self.weights[name] = np.ascontiguousarray(array.astype(np.float32))
        return name


def find_number_read(module: fx.GraphModule) -> tuple[str, str] | None:
    """Return the first call that turns a floating-point parameter or buffer into a Python number, and its name.

    Such a number would be part of the program, which is public. Returns None if there is no such call.
    """
    origins: dict[fx.Node, str] = {}
    for node in module.graph.nodes:
        sources = [origins[source] for source in node.all_input_nodes if source in origins]
        if node.op == "get_attr":
            value = attribute(module, str(node.target))
            if isinstance(value, Tensor) and value.is_floating_point():
                origins[node] = str(node.target)
        elif sources:
            origins[node] = sources[0]
            if node.target in ("item", "tolist"):
                return node.name, sources[0]
    return None
