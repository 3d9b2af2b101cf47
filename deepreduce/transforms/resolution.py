"""Scale the resolution of feature maps by rho: the strides of the first convolutions, the windows of the last pools.

A pool that leaves one position (`F.avg_pool2d(x, 4)` of a 4x4 map) covers the map, or as much of it as its window
reaches. On a smaller map its window would not fit, so it becomes the map's size: one position again. The divisor of
an average (`divisor_override`) shrinks with the window.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from deepreduce.errors import PlanError
from deepreduce.network.calls import Call, call_of
from deepreduce.network.copying import copy_module
from deepreduce.network.meta_run import run_without_data

# layers that have no stride to set; a convolution behind one is not the first to meet the image
_FUNCTIONAL_LAYERS = {torch.conv2d, F.linear, torch.matmul}

_POOLS = ("avg_pool2d", "max_pool2d")


def stride_factor(rho: float) -> int:
    """Return 1/rho. Raises `PlanError` where that is no whole number."""
    factor = round(1 / rho)
    if not math.isclose(factor * rho, 1, rel_tol=1e-9):
        raise PlanError(f"rho is {rho:g}; it is realised as a stride of 1/rho, so give 1/2, 1/3, 1/4, ...")
    return factor


def scale_resolution(module: fx.GraphModule, rho: float) -> None:
    """Multiply the stride of the stem by 1/rho: of every convolution that the image reaches first.

    Where the image reaches none, or one whose padding rules out a stride, an average pool comes first of all.
    """
    factor = stride_factor(rho)
    convolutions = {id(c): c for c in _first_convolutions(module)}.values()
    if convolutions and not any(isinstance(c.padding, str) for c in convolutions):
        for convolution in convolutions:
            convolution.stride = tuple(factor * stride for stride in convolution.stride)
    else:
        _pool_image(module, factor)


def _pool_image(module: fx.GraphModule, factor: int) -> None:
    (image,) = (node for node in module.graph.nodes if node.op == "placeholder" and not node.args)
    name = _free_name(module, "_input_pool")  # an earlier rho may have made one
    module.add_submodule(name, nn.AvgPool2d(factor))
    with module.graph.inserting_after(image):
        pooled = module.graph.call_module(name, (image,))
    image.replace_all_uses_with(pooled, delete_user_cb=lambda user: user is not pooled)
    module.recompile()


def _first_convolutions(module: fx.GraphModule) -> Iterator[nn.Conv2d]:
    frontier = [node for node in module.graph.nodes if node.op == "placeholder"]
    seen = set(frontier)
    while frontier:
        for user in frontier.pop().users:
            if user in seen:
                continue
            seen.add(user)
            target = module.get_submodule(str(user.target)) if user.op == "call_module" else None
            if isinstance(target, nn.Conv2d):
                yield target
            elif user.target not in _FUNCTIONAL_LAYERS and not isinstance(target, nn.Linear):
                frontier.append(user)


# -- pools that leave one position --------------------------------------------------------------------------


def fit_pools(
    module: fx.GraphModule, input_shape: tuple[int, ...], before: Mapping[str, tuple[int, ...]], *, name: str
) -> None:
    """Cut the windows of pools to the maps that they get now, where a pool left one position before.

    `before` maps a node's name to the shape of its output, for one image, in the network whose maps were larger.
    Raises `ModelError` where the image doesn't fit in other ways, and `PlanError` for a divisor of an average that
    can't shrink as its window does.
    """
    pools = {node.name: _pool(node, module, before) for node in module.graph.nodes}
    if not any(pools.values()):
        return
    fitter = run_without_data(module, input_shape, name=name, interpreter=lambda graph: _PoolFitter(graph, before))
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for node in module.graph.nodes:
        if node.name in fitter.windows:
            options = _fitted(node.name, pools[node.name], fitter.windows[node.name])
            _set_options(node, module, options, is_shared=calls[node.target] > 1)
    module.recompile()


def _pool(node: fx.Node, module: fx.GraphModule, before: Mapping[str, tuple[int, ...]]) -> Call | None:
    """Return the node's call of a pool that left one row or one column before; None for any other node."""
    call = call_of(node, module)
    if call is None or call.function not in _POOLS or 1 not in before.get(node.name, ())[1:]:
        return None
    return None if any(isinstance(value, fx.Node) for value in call.options.values()) else call


class _PoolFitter(fx.Interpreter):
    """An interpreter that runs each pool with a window that fits, and records the windows that it had to cut."""

    def __init__(self, module: fx.GraphModule, before: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(module)
        self.windows: dict[str, tuple[int, int]] = {}
        self._before, self._graph_module = before, module

    def run_node(self, n: fx.Node) -> Any:
        call = _pool(n, self._graph_module, self._before)
        if call is None:
            return super().run_node(n)
        image = self.env[call.source]
        window = _window(call, tuple(image.shape[-2:]), self._before[n.name][-2:])
        if window == call.pair("kernel_size"):
            return super().run_node(n)
        self.windows[n.name] = window
        return getattr(F, call.function)(image, **{**call.options, "kernel_size": window})


def _window(call: Call, size: tuple[int, ...], positions: tuple[int, ...]) -> tuple[int, int]:
    """Return the window that fits a map of `size` for a pool that left `positions` (rows, columns) before."""
    given, padding, dilation = (call.pair(option) or (1, 1) for option in ("kernel_size", "padding", "dilation"))
    height, width = (
        min(kernel, (whole + 2 * pad - 1) // step + 1) if left == 1 else kernel
        for kernel, whole, pad, step, left in zip(given, size, padding, dilation, positions, strict=True)
    )
    return height, width


def _fitted(name: str, pool: Call | None, window: tuple[int, int]) -> dict[str, Any]:
    """Return the pool's arguments that change; raises `PlanError` for a divisor that can't shrink with the window."""
    assert pool is not None
    divisor, given = pool["divisor_override"], pool.pair("kernel_size")
    assert given is not None
    if divisor is None:
        return {"kernel_size": window}
    scaled, rest = divmod(divisor * math.prod(window), math.prod(given))
    if rest or not scaled:
        raise PlanError(
            f"rho would cut the window of {name} from {given[0]}x{given[1]} to {window[0]}x{window[1]}, but not its"
            f" divisor_override of {divisor}; leave out divisor_override, or rho"
        )
    return {"kernel_size": window, "divisor_override": scaled}


def _set_options(node: fx.Node, module: fx.GraphModule, options: Mapping[str, Any], *, is_shared: bool) -> None:
    """Give a pool its arguments; a module that is called elsewhere too is copied first."""
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        if is_shared:
            layer = copy_module(layer)
            node.target = _free_name(module, "_fitted_pool")
            module.add_submodule(str(node.target), layer)
        for option, value in options.items():
            setattr(layer, option, value)
        return
    call = call_of(node, module)
    assert call is not None
    node.args, node.kwargs = (call.source,), {**call.options, **options}


def _free_name(module: nn.Module, name: str) -> str:
    """Return the first of name, name1, name2, ... that the module does not have."""
    free, number = name, 1
    while hasattr(module, free):
        free, number = f"{name}{number}", number + 1
    return free
