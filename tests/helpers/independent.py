"""Counts that know nothing of deepreduce: run a module and watch the operations that execute."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


class ReluWatch(TorchDispatchMode):
    """Elements of every rectifier that executes, in order. ReLU6 executes as hardtanh(0, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        is_relu = op in (aten.relu, aten.relu_)
        is_relu6 = op in (aten.hardtanh, aten.hardtanh_) and tuple(args[1:3]) == (0, 6)
        is_clamp = op in (aten.clamp, aten.clamp_min) and tuple(args[1:]) == (0,)
        if is_relu or is_relu6 or is_clamp:
            self.elements.append(out.numel())
        return out


def executed_relus(module: nn.Module, input_shape: tuple[int, int, int], *, device: str = "cpu") -> list[int]:
    """Elements of each ReLU that runs for one image, in evaluation mode."""
    was_training, watch = module.training, ReluWatch()
    module.eval()
    with torch.no_grad(), watch:
        module(torch.zeros((1, *input_shape), device=device))
    module.train(was_training)
    return watch.elements


def executed_macs(module: nn.Module, input_shape: tuple[int, int, int], *, device: str = "cpu") -> int:
    """Multiply-accumulates of one image by torch's own counter, which counts two operations for each."""
    counter = FlopCounterMode(display=False)
    module.eval()
    with torch.no_grad(), counter:
        module(torch.zeros((1, *input_shape), device=device))
    return counter.get_total_flops() // 2
