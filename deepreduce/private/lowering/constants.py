"""What a graph computes without the image: the server's weights, and masks that everybody knows."""

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

# torch.fx calls so what forward computes while it is traced; from what is forgotten
_COMPUTED_BY_FORWARD = re.compile(r"(^|\.)_tensor_constant\d+$")


class Constants:
    """The constants of a graph by node, and by name what the parties are given of them.

    Floating-point ones are the server's `weights`, others public `masks`. What descends from a floating-point
    parameter or buffer is the server's and never becomes a mask.
    """

    def __init__(self, graph: fx.GraphModule, network: Network) -> None:
        self.weights: dict[str, Array] = {}
        self.masks: dict[str, Array] = {}
        self._graph = graph
        self._values: dict[fx.Node, Any] = {}
        self._secrets: dict[fx.Node, str] = {}  # what tells of the server's numbers, and how it came about
        self._numbers = itertools.count()
        self._owners: dict[int, str] = {}  # where a tensor lies in memory -> its name in the network
        for name, tensor in module_tensors(network.module):
            self._owners.setdefault(tensor.untyped_storage().data_ptr(), name)

    # -- by node ----------------------------------------------------------------------------------------------

    def __contains__(self, value: object) -> bool:
        return isinstance(value, fx.Node) and value in self._values

    def __getitem__(self, node: fx.Node) -> Any:
        return self._values[node]

    def read(self, node: fx.Node) -> None:
        """Note down a tensor that the graph holds."""
        tensor: Tensor = getattr(self._graph, str(node.target)).detach()
        self._values[node] = tensor
        owner = self._owners.get(tensor.untyped_storage().data_ptr())  # none: numbers in the code of forward
        if owner is not None and _COMPUTED_BY_FORWARD.search(owner):
            self._secrets[node] = "that forward computes, perhaps of numbers that are the server's"
        elif tensor.is_floating_point() or tensor.is_complex():
            self._secrets[node] = f"made of {owner or 'floating-point numbers'}, which is the server's"

    def compute(self, node: fx.Node) -> None:
        """Note down an operation on constants."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        with torch.no_grad():
            self._values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        self._descends(node, node.all_input_nodes)

    def take_part(self, node: fx.Node, source: fx.Node, index: int) -> None:
        """Note down one of several constants that an operation gave."""
        self._values[node] = self._values[source][index]
        self._descends(node, [source])

    def _descends(self, node: fx.Node, sources: Iterable[fx.Node]) -> None:
        secrets = [self._secrets[source] for source in sources if source in self._secrets]
        if secrets:
            self._secrets[node] = secrets[0]

    # -- by name ----------------------------------------------------------------------------------------------

    def name(self, node: fx.Node, layer: str) -> str:
        """The name under which a layer is given a constant; one of four dimensions is stored channels-last."""
        return self.name_made_of(node, self._values[node], layer)

    def name_made_of(self, node: fx.Node, tensor: Tensor, layer: str) -> str:
        """The same for a tensor that was made of the constant.

        Raises `UnsupportedError` for one that would be public and tells of what is the server's.
        """
        if tensor.dim() == 4:
            tensor = tensor.permute(0, 2, 3, 1)
        if tensor.is_floating_point():
            return self.name_weight(np.array(tensor.float().cpu()), layer)
        if node in self._secrets:
            raise UnsupportedError(
                f"takes a mask {self._secrets[node]}, but masks are public; compute it where the module is made and"
                " register it as a boolean buffer (of integers, where it picks channels by number)"
            )
        name = f"{layer}/mask{next(self._numbers)}"
        self.masks[name] = np.ascontiguousarray(np.array(tensor.cpu()))  # a copy
        return name

    def name_weight(self, array: Array, layer: str) -> str:
        """The name under which a layer is given this array, which is stored as it is, in float32."""
        name = f"{layer}/weight{next(self._numbers)}"
        self.weights[name] = np.ascontiguousarray(array.astype(np.float32))
        return name


def number_read(module: fx.GraphModule) -> tuple[str, str] | None:
    """The first call that makes a Python number of a floating-point parameter or buffer, and which; None for none.

    Such a number would stand in the program, which is public.
    """
    descends: dict[fx.Node, str] = {}
    for node in module.graph.nodes:
        sources = [descends[source] for source in node.all_input_nodes if source in descends]
        if node.op == "get_attr":
            value = attribute(module, str(node.target))
            if isinstance(value, Tensor) and value.is_floating_point():
                descends[node] = str(node.target)
        elif sources:
            descends[node] = sources[0]
            if node.target in ("item", "tolist"):
                return node.name, sources[0]
    return None
