"""Resolve a model's name to a spec, and build the network of a spec."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepreduce.errors import ModelError, unknown_name
from deepreduce.models.spec import FACTORY, ModelSpec
from deepreduce.models.zoo import ZOO, Layout
from deepreduce.utils.fields import MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES, MOST_WIDTH
from deepreduce.utils.memory import check_memory
from deepreduce.utils.text import one_line, shown

TORCHVISION = "torchvision:"
ZOO_INPUT_SIZE = 32
FALLBACK_INPUT_SIZE = 224


def resolve_spec(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    width: int | None = None,
    blocks: Sequence[int] | None = None,
) -> ModelSpec:
    """Return the spec of the model called `name`: a zoo name, `torchvision:NAME` or `FILE.py:FACTORY`.

    `num_classes` defaults to 1,000 for torchvision's networks and to 10 for others. `width` (channels of the stem)
    and `blocks` (per stage) are for zoo networks only and default to the published ones. Raises `ModelError` for an
    unknown name and for an option that the model does not have.
    """
    if num_classes is not None:
        check_range("num_classes", num_classes, 2, MOST_CLASSES)
    check_range("in_channels", in_channels, 1, MOST_CHANNELS)
    if name in ZOO:
        spec = ModelSpec(name=name, num_classes=num_classes or 10, in_channels=in_channels)
        return _with_zoo_options(spec, width, blocks)
    if name.startswith(TORCHVISION):
        _check_torchvision(name)
        _refuse_zoo_options(name, width, blocks)
        if in_channels != 3:
            raise ModelError(
                f"{name} takes 3 input channels, the data have {in_channels}; data.channels=3 repeats grey images"
            )
        return ModelSpec(name=name, num_classes=num_classes or 1000, in_channels=3)
    if is_factory(name):
        _refuse_zoo_options(name, width, blocks)
        path, factory = name.rsplit(":", 1)
        # absolute, so that a saved network loads from any folder
        absolute = f"{Path(path).expanduser().resolve()}:{factory}"
        return ModelSpec(name=absolute, num_classes=num_classes or 10, in_channels=in_channels)
    known = [*ZOO, f"{TORCHVISION}NAME", "FILE.py:FACTORY"]
    if name in _torchvision_names():
        raise ModelError(f"unknown model {name!r}; did you mean '{TORCHVISION}{name}'? known: {', '.join(known)}")
    raise ModelError(unknown_name("model", name, known))


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raise `ModelError` unless `least` <= value <= `most`."""
    if not least <= value <= most:
        raise ModelError(f"{name} is {shown(value)}; give {least} to {most:,}")


def check_spec(spec: ModelSpec) -> None:
    """Raise `ModelError` for a spec that `resolve_spec` would not return, as one from a changed file may be."""
    resolved = resolve_spec(
        spec.name, num_classes=spec.num_classes, in_channels=spec.in_channels, width=spec.width, blocks=spec.blocks
    )
    if spec.runs_file is not None:
        if not Path(spec.runs_file).is_absolute():
            raise ModelError(f"{spec.name} is no absolute path, so that the file depends on the folder one is in")
    elif resolved != spec:
        raise ModelError(f"the spec of {spec.name} has width {spec.width} and blocks {spec.blocks}; give both")


def _with_zoo_options(spec: ModelSpec, width: int | None, blocks: Sequence[int] | None) -> ModelSpec:
    entry = ZOO[spec.name]
    if width is not None:
        check_range("width", width, 1, MOST_WIDTH)
    depth = entry.blocks if blocks is None else tuple(blocks)
    for count in depth:
        check_range("a stage's number of blocks", count, 1, MOST_BLOCKS)
    if len(depth) != len(entry.blocks):
        raise ModelError(
            f"blocks is {shown(list(depth))}; {spec.name} needs {len(entry.blocks)} positive counts,"
            f" as in {list(entry.blocks)}"
        )
    return replace(spec, width=entry.width if width is None else width, blocks=depth)


def _refuse_zoo_options(name: str, width: int | None, blocks: Sequence[int] | None) -> None:
    if width is not None or blocks is not None:
        raise ModelError(f"width and blocks are options of the zoo's networks; leave them out for {name!r}")


def default_input_size(spec: ModelSpec) -> int:
    """Return the height and width, in pixels, of the images that the network was designed for.

    32 for zoo networks, the crop size of torchvision's weights for torchvision's, 224 for the user's own.
    """
    if spec.is_zoo:
        return ZOO_INPUT_SIZE
    if spec.name.startswith(TORCHVISION):
        import torchvision

        weights = torchvision.models.get_model_weights(spec.name.removeprefix(TORCHVISION))
        # the smallest: some networks list weights that were fine-tuned at a larger size first
        return min(int(member.transforms().crop_size[0]) for member in weights)
    return FALLBACK_INPUT_SIZE


def check_weights_fit(spec: ModelSpec) -> None:
    """Raise `ModelError` if the weights of a zoo network, with gradients and momentum, exceed the free memory."""
    if spec.is_zoo:
        count = sum(p.numel() for p in build_model(spec, device="meta").parameters())
        check_memory(
            12.0 * count,  # weights, gradients and momentum in float32
            f"training {spec.name} of width {spec.width} with {count:,} weights",
            repair="lower model.width or model.blocks",
            error=ModelError,
        )


def build_model(
    spec: ModelSpec, *, seed: int = 0, device: str | torch.device = "cpu", pretrained: bool = False
) -> nn.Module:
    """Build the network of `spec`, initialised from `seed`; the global random state stays as it was.

    On device "meta" nothing is allocated. `pretrained` loads torchvision's weights, downloaded on first use; tensors
    whose shape depends on the number of classes stay random if it is not 1,000. Raises `ModelError` if the network
    can't be built or has no pretrained weights.
    """
    try:
        model = _build(spec, seed=seed, device=device)
    except (ModelError, RuntimeError):
        if torch.device(device).type != "meta":
            raise
        model = _build(spec, seed=seed, device="cpu").to(device)  # its constructor computes with tensors
    if pretrained:
        _load_pretrained(model, spec)
    return model


def count_parameters(spec: ModelSpec) -> int:
    """Return the number of parameters of a network of the zoo or of torchvision; allocate none of them."""
    return sum(parameter.numel() for parameter in build_model(spec, device="meta").parameters())


def _build(spec: ModelSpec, *, seed: int, device: str | torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=_cuda_devices(device)), torch.device(device):
        torch.manual_seed(seed)
        if spec.name in ZOO:
            return _build_zoo(spec)
        if spec.name.startswith(TORCHVISION):
            return _build_torchvision(spec)
        return _build_from_factory(spec)


def _cuda_devices(device: str | torch.device) -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.device(device).type == "cuda" else []


def _build_zoo(spec: ModelSpec) -> nn.Module:
    assert spec.width is not None and spec.blocks is not None
    model = ZOO[spec.name].build(
        Layout(
            width=spec.width,
            blocks=spec.blocks,
            in_channels=spec.in_channels,
            num_classes=spec.num_classes,
        )
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)  # type: ignore[no-any-return]


def _check_torchvision(name: str) -> None:
    known = _torchvision_names()
    if name.removeprefix(TORCHVISION) not in known:
        raise ModelError(unknown_name("model", name, [TORCHVISION + n for n in known]))


def _build_torchvision(spec: ModelSpec) -> nn.Module:
    import torchvision

    name = spec.name.removeprefix(TORCHVISION)
    options: dict[str, Any] = {"num_classes": spec.num_classes}
    if name in ("googlenet", "inception_v3"):
        # torchvision's initialisation takes scipy a minute; auxiliary heads would be a second output
        options |= {"init_weights": False, "aux_logits": False}
    return torchvision.models.get_model(name, weights=None, **options)  # type: ignore[no-any-return]


def _load_pretrained(model: nn.Module, spec: ModelSpec) -> None:
    if not spec.name.startswith(TORCHVISION):
        raise ModelError(f"{spec.name} has no pretrained weights; they exist for torchvision:NAME")
    import torchvision

    weights = torchvision.models.get_model_weights(spec.name.removeprefix(TORCHVISION)).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ModelError(f"the weights of {spec.name} can't be downloaded ({error}); use pretrained: false") from None
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)


def is_factory(name: str) -> bool:
    """Return True for a name FILE.py:FACTORY of a function of the user's own."""
    return FACTORY.search(name) is not None


def _build_from_factory(spec: ModelSpec) -> nn.Module:
    path, name = spec.name.rsplit(":", 1)
    with _import_path(Path(path).parent):
        factory = _load_factory(Path(path), name)
        try:
            parameters = inspect.signature(factory).parameters
            takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
            options = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
            model = factory(**{k: v for k, v in options.items() if takes_any or k in parameters})
        except (Exception, SystemExit) as error:
            raise ModelError(f"{name} of {path} raised {_one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} of {path} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


@contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    """Put the folder first on the import path, so that the user's file can import its neighbours."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the file may have removed it
            sys.path.remove(str(folder))


def _one_line(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {error}", 500)


def _load_factory(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise ModelError(f"no file {path}; give your own model as FILE.py:FACTORY")
    module_spec = importlib.util.spec_from_file_location(f"deepreduce_user_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickle look the module up by name
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path} can't be imported: {_one_line(error)}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ModelError(f"{path}: " + unknown_name("function", name, functions))
    return factory  # type: ignore[no-any-return]
