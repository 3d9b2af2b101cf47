"""From a module to the module of its graph."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from deepreduce.network.tracing.failures import Unfollowable
from deepreduce.network.tracing.modes import Training, depends_on_mode, follow_modes
from deepreduce.network.tracing.rewrite import (
    choose_output,
    cut_gradients,
    keep_tensors,
    let_views_copy,
    refuse_written_buffers,
    undo_needless_overwriting,
)
from deepreduce.network.tracing.state import buffer_writes, untouched
from deepreduce.network.tracing.tracer import NetworkTracer
from deepreduce.network.tracing.values import ReloadTracer


def follow(module: nn.Module, input_shape: tuple[int, ...]) -> fx.GraphModule:
    """Return the graph of `module(images)` as a module that shares the module's layers and tensors.

    The module is left as it was. Raises `Unfollowable` for what a graph can't express, and what forward raises.
    """
    with untouched(module):
        module.eval()
        writes = buffer_writes(module)
        tracer = NetworkTracer(module, input_shape)
        graph = tracer.follow(module)
        if written := writes():
            raise Unfollowable(
                f"forward writes to {', '.join(sorted(written))} in evaluation mode, which a graph does not keep; it"
                " may change nothing but the statistics of batch-norms, in training mode",
                line="",
            )
        graph_module = fx.GraphModule(module, graph, class_name=type(module).__name__)
        tracer.runs.root = graph_module
    refuse_written_buffers(graph_module)
    if depends_on_mode(graph):
        follow_modes(graph_module, module, _trace_training(module, input_shape), tracer.runs)
    undo_needless_overwriting(graph_module, tracer.runs)
    cut_gradients(graph_module, tracer.runs)
    let_views_copy(graph_module)
    choose_output(graph_module)
    keep_tensors(graph_module, module)
    graph_module.graph._tracer_cls = ReloadTracer
    graph_module._tracer_cls = ReloadTracer
    graph_module.recompile()
    return graph_module


def _trace_training(module: nn.Module, input_shape: tuple[int, ...]) -> Training | None:
    """Return what the module does in training mode; None if that can't be followed."""
    try:
        with untouched(module):
            module.train()
            writes = buffer_writes(module)
            graph = NetworkTracer(module, input_shape).follow(module)
            counted: Counter[str] = Counter()
            for buffer, times in writes().items():
                owner, _, name = buffer.rpartition(".")
                if name == "num_batches_tracked":
                    counted[owner] += times
            return Training(graph=graph, counted=counted)
    except Exception:  # only the graph of evaluation mode must be followed
        return None
