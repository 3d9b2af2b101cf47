"""Reduced networks in formats that other programs open: ONNX, and torch.export's.

A file is written only when it agrees with the PyTorch network: it is run on real images, and its ReLUs are counted.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from deepreduce.errors import DeepReduceError, RunError, UserError, unknown_name
from deepreduce.network import Network
from deepreduce.network.operations import relu_kind
from deepreduce.utils.files import staged, writing
from deepreduce.utils.optional import quiet_loggers, require_packages

FORMATS = ("onnx", "torch-export")
"""`onnx`: an ONNX file for any runtime. `torch-export`: an ExportedProgram (.pt2) for torch.export.load."""

_TOLERANCE = 1e-3
"""Largest difference of logits, as a share of the largest logit, that other kernels may cause in float32."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """Report of an export: the file, and how it was checked.

    `max_abs_error` is over the logits of `checked_images` images.
    """

    path: str
    format: str
    relu_count: int
    folded: bool
    checked_images: int
    max_abs_error: float
    file_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def export_network(network: Network, path: Path, *, to: str, images: Tensor, fold: bool = False) -> ExportReport:
    """Write `network` to `path`, for any batch size, and check the file on `images` (N, C, H, W), at least 2.

    `fold` merges batch-norms into the convolutions before them. Raises `UserError` for an unknown format or a missing
    package, and `RunError`, leaving nothing behind, where the file's ReLUs are not those of the network, its logits
    differ by more than float32 kernels do, or its predictions differ at all.
    """
    if to not in FORMATS:
        raise UserError(unknown_name("format", to, FORMATS))
    if len(images) < 2:
        raise UserError(f"{len(images)} images can't show that a file takes any batch size; give at least 2")
    module = _folded(network.module) if fold else network.module
    form = _FORMS[to]
    modes = {m: m.training for m in network.module.modules()}
    try:
        network.module.eval()
        with staged(path) as file:
            with _quiet():
                content = _convert(form, module.eval(), images[:2], fold=fold, to=to)
            file.write(content)
            with writing(path):
                file.sync()
            error = _checked(network, file.path, images, form, path=path)
    finally:
        for m, mode in modes.items():
            m.training = mode
    return ExportReport(
        path=str(path),
        format=to,
        relu_count=network.relu_count,
        folded=fold,
        checked_images=len(images),
        max_abs_error=error,
        file_bytes=len(content),
    )


def _convert(form: _Form, module: nn.Module, images: Tensor, *, fold: bool, to: str) -> bytes:
    """Return the content of the file."""
    try:
        return form.convert(module, images, fold)
    except DeepReduceError:
        raise
    except Exception as error:  # the exporters raise what they like
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        other = next(name for name in FORMATS if name != to)
        raise RunError(
            f"torch {torch.__version__} can't convert the network to {to} ({lines[0][:160]}); a newer torch may, or"
            f" --to {other}"
        ) from error


def _checked(network: Network, file: Path, images: Tensor, form: _Form, *, path: Path) -> float:
    """The largest difference of logits between file and network."""
    found, expected_count = form.count_relus(file), network.relu_count
    if found != expected_count:
        raise RunError(f"{path} would hold {found:,} ReLUs, the network has {expected_count:,}; it is not written")
    with torch.no_grad():
        expected = network.module(images)  # (N, classes)
    logits = form.run(file, images)
    error = float((logits - expected).abs().max())
    allowed = _TOLERANCE * max(float(expected.abs().max()), 1.0)
    if not error <= allowed:
        raise RunError(f"{path} would differ from the network by {error:.3g} in its logits; it is not written")
    differing = int((logits.argmax(1) != expected.argmax(1)).sum())
    if differing:
        raise RunError(f"{path} would predict {differing} of {len(images)} images differently; it is not written")
    return error


def _folded(module: fx.GraphModule) -> nn.Module:
    from torch.fx.experimental.optimization import fuse

    return fuse(module.eval())  # a new module; the given one stays as it is


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' progress and deprecations, on which a user of deepreduce can't act."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    with quiet_loggers(*names, level=logging.ERROR), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# -- ONNX ---------------------------------------------------------------------------------------------------


def _convert_to_onnx(module: nn.Module, images: Tensor, fold: bool) -> bytes:
    require_packages("ONNX", "onnx", "onnxscript", "onnxruntime", extra="export")
    from onnxscript import optimizer

    program = torch.onnx.export(
        module, (images,), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},), optimize=fold,
    )  # fmt: skip
    assert program is not None
    if not fold:
        # torch's own optimization folds batch-norms too; these passes only clear away what the exporter scaffolds
        optimizer.inline(program.model)
        optimizer.fold_constants(program.model, onnx_shape_inference=True)
        optimizer.remove_unused_nodes(program.model)
    content: bytes = program.model_proto.SerializeToString()
    return content


def _run_onnx(file: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    (logits,) = session.run(None, {name: images.numpy()})
    return torch.from_numpy(logits)


def relus_in_onnx(file: Path) -> int:
    """Return the ReLUs of one image, from the shapes of the file's Relu, Clip and Max nodes that cut off at 0.

    Of a ReLU that a Where node chooses instead of its input, those count where the condition, a constant, is true.
    """
    require_packages("ONNX", "onnx", extra="export")
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(file)))
    graph = model.graph
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    for node in graph.node:
        values = [a.t for a in node.attribute if a.name == "value"] if node.op_type == "Constant" else []
        if values:
            constants[node.output[0]] = onnx.numpy_helper.to_array(values[0])
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    used = {value.name for value in graph.output}
    total = 0
    for node in graph.node:
        low = constants.get(node.input[1]) if node.op_type in ("Clip", "Max") and len(node.input) > 1 else None
        if node.op_type == "Relu" or (low is not None and not low.any()):
            (made,), source = node.output, node.input[0]
            masks = [
                constants.get(reader.input[0])
                if reader.op_type == "Where" and list(reader.input[1:]) == [made, source] and made not in used
                else None
                for reader in readers.get(made, ())
            ]
            total += _kept(shapes[made][1:], [None if mask is None else torch.tensor(mask) for mask in masks])
    return total


def _kept(shape: Sequence[int], masks: Sequence[Tensor | None]) -> int:
    """Return the elements of a ReLU's output (*shape) of one image that any of its readers, by their masks, takes.

    None is the mask of a reader that takes all.
    """
    if not masks or any(mask is None for mask in masks):
        return math.prod(shape)
    taken = torch.zeros(tuple(shape), dtype=torch.bool)
    for mask in masks:
        assert mask is not None
        taken |= mask.bool().reshape(mask.shape[max(mask.dim() - len(shape), 0) :])
    return int(taken.sum())


# -- torch.export -------------------------------------------------------------------------------------------


def _convert_to_pt2(module: nn.Module, images: Tensor, fold: bool) -> bytes:
    program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    # into memory, because torch's writer of zip files ends the process where the disk is full
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def _run_pt2(file: Path, images: Tensor) -> Tensor:
    with torch.no_grad(), open(file, "rb") as handle:
        logits: Tensor = torch.export.load(handle).module()(images)
    return logits


def relus_in_pt2(file: Path) -> int:
    """Return the ReLUs of one image, from the operations in the file's graph; masks as in `relus_in_onnx`."""
    with open(file, "rb") as handle:
        program = torch.export.load(handle)
    signature = program.graph_signature
    held = {**program.state_dict, **program.constants}
    names = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    total = 0
    for node in program.graph.nodes:
        if isinstance(node.target, OpOverload) and relu_kind(node.target, node.args) is not None:
            masks = []
            for reader in node.users:
                is_where = getattr(getattr(reader.target, "overloadpacket", None), "__name__", "") == "where"
                is_choice = is_where and list(reader.args[1:]) == [node, node.args[0]]
                masks.append(held.get(names.get(str(reader.args[0]), "")) if is_choice else None)
            total += _kept([int(n) for n in node.meta["val"].shape[1:]], masks)
    return total


@dataclass(frozen=True, kw_only=True)
class _Form:
    """A format: convert a module (with two example images), run a file on images, count a file's ReLUs."""

    convert: Callable[[nn.Module, Tensor, bool], bytes]
    run: Callable[[Path, Tensor], Tensor]
    count_relus: Callable[[Path], int]


_FORMS = {
    "onnx": _Form(convert=_convert_to_onnx, run=_run_onnx, count_relus=relus_in_onnx),
    "torch-export": _Form(convert=_convert_to_pt2, run=_run_pt2, count_relus=relus_in_pt2),
}
assert set(_FORMS) == set(FORMATS)
