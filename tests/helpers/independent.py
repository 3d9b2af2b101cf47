"""Counts that know nothing of deepreduce: run a module and watch the operations that execute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


class ReluWatch(TorchDispatchMode):
    """Elements of every rectifier that executes, in order. ReLU6 executes as hardtanh(0, 6).

    Where torch.where chooses between a rectifier's output and its input, the true elements of the condition count:
    no other comparison is needed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[int] = []
        self._seen: list[tuple[Any, Any]] = []  # output and input of each

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        is_relu = op in (aten.relu, aten.relu_)
        is_relu6 = op in (aten.hardtanh, aten.hardtanh_) and tuple(args[1:3]) == (0, 6)
        is_clamp = op in (aten.clamp, aten.clamp_min) and tuple(args[1:]) == (0,)
        if is_relu or is_relu6 or is_clamp:
            self.elements.append(out.numel())
            self._seen.append((out, args[0]))
        if func is aten.where.self:
            for index, (made, given) in enumerate(self._seen):
                if args[1] is made and args[2] is given:
                    self.elements[index] = int(args[0].expand(made.shape).sum())
        return out


def executed_relus(module: nn.Module, input_shape: tuple[int, int, int], *, device: str = "cpu") -> list[int]:
    """Elements of each ReLU that runs for one image, in evaluation mode: what a second image adds."""
    was_training, counts = module.training, []
    module.eval()
    for images in (1, 2):
        with torch.no_grad(), ReluWatch() as watch:
            module(torch.zeros((images, *input_shape), device=device))
        counts.append(watch.elements)
    module.train(was_training)
    return [two - one for one, two in zip(*counts, strict=True) if two != one]


def executed_macs(module: nn.Module, input_shape: tuple[int, int, int], *, device: str = "cpu") -> int:
    """Multiply-accumulates of one image by torch's own counter, which counts two operations for each."""
    counter = FlopCounterMode(display=False)
    module.eval()
    with torch.no_grad(), counter:
        module(torch.zeros((1, *input_shape), device=device))
    return counter.get_total_flops() // 2


def relus_in_onnx_file(path: Path) -> int:
    """ReLUs of one image that the file needs: it is run, and every rectifier's output is looked at.

    A rectifier whose output is read by a Where alone is needed where the condition holds.
    """
    import onnx
    import onnxruntime

    model = onnx.load(str(path))
    names = [n.output[0] for n in model.graph.node if n.op_type in ("Relu", "Clip", "Max")]
    if not names:
        return 0
    wheres = {n.input[1]: n.input[0] for n in model.graph.node if n.op_type == "Where"}
    held = {tensor.name for tensor in model.graph.initializer}
    asked = [name for name in {*names, *(wheres[n] for n in names if n in wheres)} if name not in held]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in asked)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    found = dict(
        zip(asked, session.run(asked, {image.name: np.zeros((2, *image.shape[1:]), np.float32)}), strict=True)
    )
    found |= {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    total = 0
    for name in names:
        shape = found[name].shape
        total += int(np.broadcast_to(found[wheres[name]], shape).sum()) if name in wheres else found[name].size
    return total // 2  # of two images
