"""Find the first module in which a traced network departs from the user's module, and say what to do about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from deepreduce.network.network import Network
from deepreduce.network.trial import ReluCounter, deterministic, hooked, random_state, seeded, tensor_leaves


def first_by_output(own: nn.Module, traced: nn.Module, images: Tensor, *, training: bool) -> str:
    """Return the path of the first module to end with an output that no node of the graph computes; "" for the root.

    `own` and `traced` are copies, which are changed.
    """
    return _first(own, traced, images, training=training, mark=_digest)


def first_by_draws(own: nn.Module, traced: nn.Module, images: Tensor) -> str:
    """Return the path of the first module after which the random state is one that the graph never has."""
    return _first(own, traced, images, training=True, mark=lambda _: random_state())


def _first(own: nn.Module, traced: nn.Module, images: Tensor, *, training: bool, mark: Callable[[Any], str]) -> str:
    assert isinstance(traced, fx.GraphModule)
    known: set[str] = set()

    class Marking(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            known.add(mark(value))
            return value

    traced.train(training)
    with seeded(), torch.set_grad_enabled(training), deterministic():
        known.add(mark(images))
        Marking(traced).run(images.clone())
    unknown: list[str] = []

    def look(path: str, args: Any, output: Any) -> None:
        if unknown or mark(output) in known:
            return
        # where its input is unknown already, the fault is of the module around it
        is_own = all(mark(tensor) in known for tensor in tensor_leaves(args))
        unknown.append(path if is_own else path.rpartition(".")[0])

    own.train(training)
    with seeded(), torch.set_grad_enabled(training), deterministic(), hooked(own, after=look):
        own(images.clone())
    return unknown[0] if unknown else ""


def _digest(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensor_leaves(value):
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def first_by_count(network: Network, own: nn.Module, images: Tensor) -> str:
    """Return the path of the first module that executes another number of ReLUs than its sites have."""
    counter = ReluCounter(images)
    own.eval()
    with seeded(), torch.no_grad(), counter, counter.following(own):
        own(images)
    executed = {path: count // len(images) for path, count in counter.by_path.items()}
    counted: dict[str, int] = {}
    nodes = {node.name: node for node in network.module.graph.nodes}
    for site in network.sites:
        path = _path_of(nodes[site.node])
        counted[path] = counted.get(path, 0) + site.relu_count
    for path in (*executed, *counted):
        if executed.get(path, 0) != counted.get(path, 0):
            return path
    return ""


def _path_of(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path.partition("@")[0] for path, _ in stack.values()]
    return paths[-1] if paths else ""


def described(module: nn.Module, path: str) -> str:
    """Return a module's path and class, for a reader."""
    part = _part(module, path)
    return f"{path} ({type(part).__name__})" if path else f"the module itself ({type(part).__name__})"


def repair_of(module: nn.Module, path: str, kind: str) -> str:
    """Return what the user can do about a difference in the part of `module` at `path`."""
    part = _part(module, path)
    if isinstance(part, torch.jit.ScriptModule):
        return "give the module as it was before torch.jit.script or torch.jit.trace"
    if isinstance(part, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "give its .module instead"
    if kind in ("evaluation", "training") and (part._forward_hooks or part._forward_pre_hooks):
        return "move the work of its hooks into its forward"
    return _REPAIRS[kind]


_WRAP = "or put that part in a function marked with torch.fx.wrap"
_REPAIRS = {
    "count": "write its forward with plain calls of torch (no optional arguments, no compiled or scripted code),"
    f" {_WRAP}",
    "excess": "a ReLU of weights alone costs nothing in private inference, and is no site: compute it in a"
    " torch.nn.utils.parametrize parametrization of the weight",
    "evaluation": "write its forward so that it depends neither on the images' values, nor on optional arguments or"
    f" hooks, {_WRAP}",
    "training": "let nn.Dropout, torchvision.ops.StochasticDepth or a batch-norm do what depends on self.training,"
    f" {_WRAP}",
    "parameter": f"use the parameter in a plain call of torch, {_WRAP}",
    "gradient": f"a torch.autograd.Function, detach() or torch.no_grad() does not survive tracing: use requires_grad,"
    f" {_WRAP}",
    "statistic": f"let nn.BatchNorm2d's own forward keep the statistics, {_WRAP}",
    "size": "don't compute sizes from the number of images: use -1 for the batch in view and reshape",
    "chance": "draw random numbers from torch's default generator only",
}


def _part(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:  # a path of the graph, which has other names inside wrappers
        return module
