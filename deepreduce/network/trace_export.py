"""The second way to follow a network, for its analysis: torch.export.

torch.fx can't follow a forward pass that branches or loops over the shapes of tensors or over other arguments;
torch.export can, because it runs with shapes. Neither can follow one that depends on the values of tensors.
"""

from __future__ import annotations

import inspect
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace

import torch
from torch import fx, nn
from torch.utils._pytree import tree_unflatten

from deepreduce.errors import NetworkTraceError
from deepreduce.models.spec import ModelSpec
from deepreduce.network.network import Network
from deepreduce.network.trace import describe, frozen_stages, name_sites, observe, trace_network


def trace_for_analysis(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    name: str | None = None,
    spec: ModelSpec | None = None,
    stages: Mapping[str, Sequence[str]] | None = None,
) -> Network:
    """`trace_network`, or where torch.fx can't follow the module, what torch.export shows of it.

    A network of the second kind says so in `untraceable` and can't be edited. Raises `NetworkTraceError`, naming
    the line, where neither can follow it.
    """
    try:
        return trace_network(module, input_shape, name=name, spec=spec, stages=stages)
    except NetworkTraceError as error:
        name = name or (spec.name if spec else type(module).__name__)
        graph_module = _exported(module, input_shape)
        if graph_module is None:
            raise
        untraceable = str(error)
    observed = observe(graph_module, input_shape, name=name)
    name_sites(graph_module, observed, module, declared=spec is not None and spec.is_zoo, patterns=stages)
    network = describe(graph_module, observed, input_shape, name=name, spec=spec)
    return replace(network, stage_patterns=frozen_stages(stages), untraceable=untraceable)


def _exported(module: nn.Module, input_shape: tuple[int, int, int]) -> fx.GraphModule | None:
    """The module's graph of ATen calls, in evaluation mode; None where torch.export can't follow it either."""
    modes = {m: m.training for m in module.modules()}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    module.eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(module, (torch.zeros((1, *input_shape), device=device),))
            # newer versions check in the graph what they assumed of the shapes; older ones know no such option
            guarded = "check_guards" in inspect.signature(program.module).parameters
            exported = program.module(check_guards=False) if guarded else program.module()
    except Exception:  # torch.export raises what it likes; the caller has an error that names the line
        return None
    finally:
        for m, mode in modes.items():
            m.training = mode
    assert isinstance(exported, fx.GraphModule) and program.call_spec.out_spec is not None
    exported.graph.set_codegen(fx.graph.CodeGen())
    (output,) = (node for node in exported.graph.nodes if node.op == "output")
    output.args = (tree_unflatten(list(output.args[0]), program.call_spec.out_spec),)  # a dictionary's keys again
    return fx.GraphModule(exported, exported.graph)  # an exported one refuses eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch.export's pages on what it could not follow."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
