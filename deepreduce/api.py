"""Single questions, asked without a run: what does a network hold, how accurate is a saved one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepreduce.config.inputs import choose_device, load_data
from deepreduce.config.schema import DataConfig, OptimizeConfig
from deepreduce.cost.link import link_named
from deepreduce.cost.preset import collapse_cost
from deepreduce.data import ImageData
from deepreduce.errors import DataError, DeepReduceError
from deepreduce.export.onnx import ExportReport, export_network
from deepreduce.models import build_model, default_input_size, resolve_spec
from deepreduce.network import AnalysisReport, Network, analyze_network, trace_for_analysis, trace_network
from deepreduce.private import PrivateRun, measure
from deepreduce.private.handshake import ServerInfo
from deepreduce.private.images import read_pixels, standardise
from deepreduce.run.outputs import config_of_network, private_file
from deepreduce.store.checkpoint import SavedNetwork
from deepreduce.training import predict
from deepreduce.utils.files import write_json

log = logging.getLogger(__name__)

_BATCH = 256
_CHECKED_IMAGES = 64
"""An exported file must agree with the network on so many test images."""


def trace(model: nn.Module, example: Tensor | tuple[int, int, int]) -> Network:
    """The network of a module, to analyze and to edit with `cull`, `thin`, `reshape` and `apply_plan`.

    `example` is a batch of images (N, C, H, W) or the shape (C, H, W) of one; only its shape is used.
    """
    shape = tuple(example.shape[1:]) if isinstance(example, Tensor) else tuple(example)
    if len(shape) != 3:
        raise DataError(f"the example input is of shape {shape}; give images (N, C, H, W), or one image's (C, H, W)")
    return trace_network(model, (int(shape[0]), int(shape[1]), int(shape[2])))


def analyze(
    model: str | nn.Module,
    *,
    input_size: int | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    width: int | None = None,
    blocks: Sequence[int] | None = None,
) -> AnalysisReport:
    """Where a network's ReLUs are, and what else it computes, for one image of `input_size` pixels square.

    `model` is a name (see `deepreduce models`) or a module. `input_size` defaults to what the network is meant for
    (32 for the zoo and for modules); a named network is built without allocating its weights. Raises `ModelError`
    where the network is unknown, can't be traced or can't take the input.
    """
    if isinstance(model, nn.Module):
        size = input_size or 32
        return analyze_network(trace_for_analysis(model, (in_channels, size, size)))
    spec = resolve_spec(model, num_classes=num_classes, in_channels=in_channels, width=width, blocks=blocks)
    size = default_input_size(spec) if input_size is None else input_size
    module = build_model(spec, device="meta")
    return analyze_network(trace_for_analysis(module, (in_channels, size, size), name=model, spec=spec))


def _config_of_run(folder: str | Path) -> OptimizeConfig:
    return config_of_network(Path(folder)) or OptimizeConfig()


def _check_fits(network: Network, images: ImageData, folder: str | Path) -> None:
    if images.image_shape != network.input_shape or network.output_shape != (images.num_classes,):
        raise DataError(
            f"{folder} takes images {network.input_shape} and knows {(network.output_shape or ('?',))[0]} classes;"
            f" {images.name} has {images.image_shape} and {images.num_classes}: name its own data set with --data"
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How accurate a saved network is, as fractions, on validation and test images."""

    path: str
    label: str
    relu_count: int
    val_accuracy: float
    test_accuracy: float
    test_images: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def evaluate(
    folder: str | Path,
    config: OptimizeConfig | None = None,
    *,
    data: Any = None,
    model: nn.Module | None = None,
) -> Evaluation:
    """Accuracy of a network of a run on the data of `config` (None: the run's), or on `data` from Python.

    `model` is the original for a run whose original was a Python module. Raises `DataError` where the data do not
    fit the network.
    """
    config = config or _config_of_run(folder)
    device = choose_device(config.device)
    saved = SavedNetwork.read(folder)
    network = saved.load(model)
    images = load_data(config.data, seed=config.seed, given=data)
    _check_fits(network, images, folder)
    module = network.module.to(device)
    val, test = (predict(module, split, batch_size=_BATCH, device=device) for split in (images.val, images.test))
    return Evaluation(
        path=str(folder),
        label=saved.label,
        relu_count=network.relu_count,
        val_accuracy=val.accuracy,
        test_accuracy=test.accuracy,
        test_images=len(images.test),
    )


def export_reduced(
    folder: str | Path,
    config: OptimizeConfig | None = None,
    *,
    to: str,
    out: str | Path,
    fold: bool = False,
    data: Any = None,
    model: nn.Module | None = None,
) -> ExportReport:
    """Write a network of a run as "onnx" or "torch-export", and check the file on test images.

    `fold` merges batch-norms into convolutions. `config`, `data` and `model` are as in `evaluate`. Raises `RunError`,
    leaving nothing behind, where file and network disagree.
    """
    config = config or _config_of_run(folder)
    saved = SavedNetwork.read(folder)
    network = saved.load(model)
    images = load_data(config.data, seed=config.seed, given=data)
    _check_fits(network, images, folder)
    batch, _ = next(images.test.eval_batches(batch_size=_CHECKED_IMAGES, device=torch.device("cpu")))
    return export_network(network, Path(out), to=to, images=batch, fold=fold)


def private_run(
    folder: str | Path,
    config: OptimizeConfig | None = None,
    *,
    protocol: str = "cheetah",
    link: str = "loopback",
    shape: bool = False,
    images: int = 1,
    repeats: int = 3,
    ports: Sequence[int] | None = None,
    timeout_s: float = 600.0,
    data: Any = None,
    model: nn.Module | None = None,
) -> PrivateRun:
    """A network of a run under secure computation, on its first `images` test images, measured layer by layer.

    Its linear regions are collapsed where that is faster over `link`; with `shape`, queries are timed over that link
    too, as the kernel makes it. What was measured is kept in the network's folder, for the plots and tables of its
    run. `config`, `data` and `model` are as in `evaluate`, the rest is as in `deepreduce.private.measure`.
    """
    over = link_named(link)
    config = config or _config_of_run(folder)
    network = SavedNetwork.read(folder).load(model)
    found = load_data(config.data, seed=config.seed, given=data)
    _check_fits(network, found, folder)
    measured = measure(
        network,
        first_images(found, images),
        protocol=protocol,
        repeats=repeats,
        ports=ports,
        shaped=over if shape else None,
        cost=collapse_cost(protocol, over),
        timeout_s=timeout_s,
    )
    try:
        write_json(private_file(Path(folder), protocol), measured.to_json())
    except DeepReduceError as error:  # what took minutes to measure is told all the same
        log.warning("the measurement is not kept: %s", error)
    return measured


def first_images(data: ImageData, count: int) -> Tensor:
    """The first test images, (count, C, H, W), standardised. Raises `DataError` where there are fewer."""
    if not 1 <= count <= len(data.test):
        raise DataError(
            f"{count:,} images are asked for; {data.name} has {len(data.test):,} test images, so take 1 to that"
        )
    batches = data.test.eval_batches(batch_size=min(count, _BATCH), device=torch.device("cpu"))
    found: list[Tensor] = []
    while sum(len(batch) for batch in found) < count:
        found.append(next(batches)[0])
    return torch.cat(found)[:count]


def image_to_query(name: str, server: ServerInfo, data: DataConfig, *, seed: int) -> Tensor:
    """Return the image (C, H, W), on the scale of `server`: pixel values from a file, or a test image.

    `name` is a path, or the number of one of `data`'s test images. Raises `DataError` if it is neither.
    """
    if not name.isdigit():
        return standardise(read_pixels(Path(name), server.input_shape), server.standardisation)
    found = load_data(data, seed=seed)
    image = first_images(found, int(name) + 1)[-1]
    if found.standardisation is None or server.standardisation is None:
        return image
    own = found.standardisation
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (own.mean, own.std))
    return standardise(image * std + mean, server.standardisation)  # the server may have trained on other images
