"""The original network and its data, from a config or from Python, checked against each other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from deepreduce.config.schema import FROM_PYTHON, DataConfig, ModelConfig
from deepreduce.data import (
    DataFacts,
    ImageData,
    Preparation,
    RawData,
    known_facts,
    load_source,
    prepare,
    raw_from_python,
)
from deepreduce.errors import ConfigError, ModelError, unknown_name
from deepreduce.models import ModelSpec, build_model, resolve_spec
from deepreduce.models.build import check_weights_fit
from deepreduce.network import Network, trace_guarded
from deepreduce.network.analyze import check_input_size
from deepreduce.utils.text import one_line

log = logging.getLogger(__name__)


def preparation_of(config: DataConfig) -> Preparation:
    """Return how the config prepares images."""
    return Preparation(
        val_fraction=config.val_fraction,
        train_limit=config.train_limit,
        test_limit=config.test_limit,
        image_size=config.image_size,
        channels=config.channels,
        pad=config.pad,
        flip=config.flip,
        workers=config.workers,
    )


def load_data(config: DataConfig, *, seed: int, given: Any = None) -> ImageData:
    """Return the data set that the config names, or `given` from Python, prepared. Raises `DataError`."""
    if isinstance(given, ImageData):
        return given
    raw: RawData
    if given is not None:
        raw = raw_from_python(given)
    else:
        raw = load_source(config.name, root=config.root, download=config.download, image_size=config.image_size)
    return prepare(raw, preparation_of(config), seed=seed)


def facts_without_data(config: DataConfig) -> DataFacts | None:
    """Return the sizes, after preparation, of a data set whose sizes are well known; None for others."""
    raw = known_facts(config.name)
    return None if raw is None else preparation_of(config).facts(raw, config.name)


def some_images(data: ImageData) -> Tensor:
    """Return the first two validation images (2, C, H, W), or the only one, as a network takes them."""
    images, _ = next(data.val.eval_batches(batch_size=2, device=torch.device("cpu")))
    return images


def original_network(
    config: ModelConfig,
    facts: DataFacts,
    *,
    seed: int,
    given: nn.Module | None = None,
    images: Tensor | None = None,
    check: Callable[[Network], None] | None = None,
) -> Network:
    """Return the full network for data of these sizes, with its initial, pretrained or loaded weights.

    The network is built as the config says from `seed`, or is `given` from Python, which is not changed. Its
    traced graph is checked against the network itself on `images` (N, C, H, W), or on random ones. Raises
    `ModelError` where it does not fit the data or has no ReLUs, `NetworkGuardError` where the check fails. `check`
    raises what else is wrong with the network, before it is run.
    """
    spec: ModelSpec | None = None
    if given is None:
        spec = resolve_spec(
            config.name,
            num_classes=facts.num_classes,
            in_channels=facts.image_shape[0],
            width=config.width,
            blocks=config.blocks,
        )
        check_weights_fit(spec)
        given = build_model(spec, seed=seed, pretrained=config.pretrained)
    if config.weights is not None:
        _load_foreign_weights(given, Path(config.weights).expanduser())
    name = config.name.removeprefix(FROM_PYTHON)
    check_parameters(given, name)

    def check_all(network: Network) -> None:
        _check_fit(network, facts)
        if check is not None:
            check(network)

    return trace_guarded(
        given, facts.image_shape, name=name, spec=spec, stages=config.stages, images=images, check=check_all
    )


def _check_fit(network: Network, facts: DataFacts) -> None:
    check_input_size(network)
    if len(network.outputs) != 1:
        heads = ", ".join(f"{head} {shape}" for head, shape in network.outputs.items())
        raise ModelError(
            f"{network.name} has {len(network.outputs)} outputs ({heads}); wrap it in a module that returns the one"
            f" to be trained, of shape ({facts.num_classes},)"
        )
    if network.output_shape != (facts.num_classes,):
        raise ModelError(
            f"{network.name} gives a tensor of shape {network.output_shape} for one image; the data have"
            f" {facts.num_classes} classes, so it must give ({facts.num_classes},)"
        )
    if not network.relu_count:
        others = ", ".join(network.unsupported) or "none"
        raise ModelError(
            f"{network.name} has no ReLUs, so there is nothing to reduce (other non-linearities: {others})"
        )
    if not any(value.requires_grad for value in network.module.parameters()):
        raise ModelError(f"{network.name} has no parameters that require gradients, so there is nothing to train")
    if network.unsupported:
        counted = ", ".join(f"{kind} x{count}" for kind, count in network.unsupported.items())
        log.info("%s has non-linearities besides ReLUs, which stay: %s", network.name, counted)


def check_parameters(module: nn.Module, name: str) -> None:
    """Raise `ModelError` unless every parameter has finite values of float32, in which networks are trained."""
    for key, value in module.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise ModelError(f"{name}: {key} has no shape yet; run one batch through the lazy module first")
        if value.is_meta:
            raise ModelError(f"{name}: {key} has no values (device meta); give the network its weights first")
        if value.dtype != torch.float32:
            raise ModelError(f"{name}: {key} is {value.dtype}; networks are trained in float32: call .float() on it")
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{name}: {key} holds NaN or infinite values; give weights that are finite")


def _load_foreign_weights(module: nn.Module, path: Path) -> None:
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"model.weights: {path} can't be read as safetensors: {error}") from error
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = one_line(lines[min(1, len(lines) - 1)], 300)
        raise ModelError(f"model.weights: {path} is of another network: {reason}") from error


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA if there is any. Raises `ConfigError` where it is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(unknown_name("device", name, ["auto", "cpu", "cuda", "cuda:0"]))
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ConfigError(f"device {name!r} is not there: PyTorch sees {count} CUDA devices; use device cpu")
    return device
