"""The public functions. The command line calls these, and does nothing that they can't."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepreduce.config.build import (
    build_run,
    build_search,
    check_machine,
    check_outputs,
    fitting_network,
    objective_of,
    overlay_of,
    presets_of,
    run_title,
    title_of,
)
from deepreduce.config.inputs import choose_device, facts_without_data, load_data, some_images
from deepreduce.config.load import config_for_network, read_run_config, resolve_config
from deepreduce.config.schema import OptimizeConfig
from deepreduce.cost.link import link_named
from deepreduce.data import ImageData
from deepreduce.errors import DataError, DeepReduceError, UserError
from deepreduce.export.onnx import ExportReport, export_network
from deepreduce.models import ModelSpec, build_model, default_input_size, resolve_spec
from deepreduce.models.build import check_range, is_factory
from deepreduce.network import (
    AnalysisReport,
    Network,
    analyze_network,
    guard_network,
    trace_for_analysis,
    trace_guarded,
)
from deepreduce.observers.base import RunObserver
from deepreduce.private import PrivateRun, measure
from deepreduce.private.batches import check_batch_of
from deepreduce.report.published import Overlay
from deepreduce.run.dry_run import DryRun, dry_run_of
from deepreduce.run.optimize import run
from deepreduce.run.outputs import write_plots
from deepreduce.run.page import write_page
from deepreduce.run.read import chosen_objective, read_run
from deepreduce.run.result import ReducedNetwork, Result
from deepreduce.store.checkpoint import SavedNetwork
from deepreduce.store.names import FRONTIER_CSV
from deepreduce.store.names import private_run as private_run_file
from deepreduce.store.records import read_criticality
from deepreduce.training import predict
from deepreduce.training.autotune import choose_execution, using_threads
from deepreduce.training.callbacks import CallbackFactory
from deepreduce.transforms.collapse.costs import collapse_cost
from deepreduce.utils.fields import MOST_PIXELS
from deepreduce.utils.records import write_record

log = logging.getLogger(__name__)

_BATCH = 256
_CHECKED_IMAGES = 64
"""Number of test images on which an exported file must agree with the network."""


def optimize(
    model: str | nn.Module | Mapping[str, Any] | None = None,
    data: Any = None,
    *,
    out: str | Path | None = None,
    config: str | Path | OptimizeConfig | None = None,
    settings: Sequence[str] = (),
    max_relus: int | None = None,
    max_cost: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    observers: Sequence[RunObserver] = (),
    callbacks: Sequence[CallbackFactory] = (),
    **values: Any,
) -> Result:
    """Find the ReLU/accuracy frontier of a network (DeepReDuce, ICML 2021): train, cull, thin, reshape and distill.

    `model` is a name (see `deepreduce models`) or an `nn.Module` that returns logits (batch, classes); `data` is a
    name, two torch data sets, four tensors, or an `ImageData`; either may be its section of the config. `config` is a
    YAML file or an `OptimizeConfig`; keyword arguments are its keys (`training={"epochs": 2}`), `settings` dotted
    ones (`["training.epochs=2"]`). `out` is the run's folder, by default a new one under runs/; to resume a run,
    repeat the call with the same folder.

    `observers` follow the run (`RunObserver`). `callbacks` take part in every student's training, not in the
    teacher's (`deepreduce.training.callbacks`); a run is resumed with the callbacks that it began with.

    Raises `UserError` for the caller's mistakes, `RunError` where the run itself fails and `RunInterrupted` when a
    signal asked it to stop; everything is saved then.
    """
    given = {"max_relus": max_relus, "max_cost": max_cost, "seed": seed, "device": device}
    if isinstance(model, Mapping):
        values, model = {**values, "model": model}, None
    if isinstance(data, Mapping) and "x_train" not in data:
        values, data = {**values, "data": data}, None
    chosen = resolve_config(
        model=model,
        data=data,
        config=config,
        settings=settings,
        values=_dotted(values) | {key: value for key, value in given.items() if value is not None},
    )
    folder = Path(out) if out is not None else new_run_folder(chosen)
    spec = build_run(
        chosen,
        out=folder,
        model=None if isinstance(model, str) else model,
        data=None if isinstance(data, str) else data,
        observers=observers,
        callbacks=callbacks,
    )
    return run(spec, out=folder)


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections as dotted keys, so that one given key of a section leaves the others as they are."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[key] = value
    return flat


def new_run_folder(config: OptimizeConfig) -> Path:
    """Return a folder under runs/ that does not exist yet, named after model, data and time."""
    name = run_title(config.model.name.replace(":", "-"), config.data.name).replace(" on ", "-").replace("/", "-")
    stem = f"{name.removesuffix('.npz')[:100]}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path("runs") / stem, 2
    while path.exists():
        path, number = Path("runs") / f"{stem}-{number}", number + 1
    return path


def dry_run(config: OptimizeConfig, *, model: nn.Module | None = None, data: Any = None) -> DryRun:
    """Return the networks that `optimize` would train, with exact counts; train nothing, write nothing.

    Data sets whose sizes are well known need not be present.
    """
    check_machine(config)
    device = choose_device(config.device)
    check_outputs(config)
    facts = facts_without_data(config.data) if data is None else None
    images = None
    if facts is None:
        loaded = load_data(config.data, seed=config.seed, given=data)
        facts, images = loaded.facts, some_images(loaded)
    network = fitting_network(config, facts, device=device, given=model, images=images)
    spec = build_search(config, network, facts, presets=presets_of(config))
    training = config.training
    execution = choose_execution(
        network,
        device=device,
        batch_size=training.batch_size,
        precision=training.precision,
        threads=config.threads,
        workers=config.side_by_side,
    )
    with using_threads(execution.threads):
        return dry_run_of(spec, batch_size=training.batch_size, precision=execution.precision, device=device)


def load_result(folder: str | Path, *, model: nn.Module | None = None, trust_code: bool = False) -> Result:
    """Return the result of a finished run from its folder.

    `model` is the original of a run whose network was a Python module; `trust_code` allows its networks to run the
    file of a model FILE.py:FACTORY. Raises `UserError` where the folder holds no
    finished run and `CheckpointError` where a file is corrupt.
    """
    path = Path(folder)
    candidates = read_run(path)
    if not (path / FRONTIER_CSV).is_file():
        raise UserError(
            f"{path} holds a run that is not finished (no {FRONTIER_CSV}); give its command again to resume it"
        )
    networks = [
        ReducedNetwork(candidate=c, folder=path / c.folder, original=model, trust_code=trust_code) for c in candidates
    ]
    measured = read_criticality(path)
    config = read_run_config(path)
    return Result(
        folder=path,
        teacher=next(n for n in networks if n.candidate.is_teacher),
        candidates=tuple(n for n in networks if not n.candidate.is_teacher),
        criticality=measured.criticality if measured is not None else {},
        objective=objective_of(config),
        title=title_of(config),
    )


def redraw(
    folder: Path,
    *,
    title: str | None = None,
    overlay: Overlay | None = None,
    objective: str | None = None,
    preset: str | None = None,
) -> list[Path]:
    """Write the plots of a finished run again and return their paths; what is not given is as the run's config says.

    `objective` and `preset` are as in `deepreduce.run.read.chosen_objective`.
    """
    config = read_run_config(folder)
    chosen = chosen_objective(read_run(folder), objective_of(config), name=objective, preset=preset)
    return write_plots(
        folder, title=title or title_of(config), overlay=overlay or overlay_of(config), objective=chosen
    )


def report_run(folder: Path, *, out: Path | None = None) -> Path:
    """Write a run, finished or not, as one interactive page, by default into its folder; return the page's path.

    Raises `UserError` where the folder holds no run or plotly is not installed, `CheckpointError` for a corrupt file.
    """
    config = read_run_config(folder)
    return write_page(folder, title=title_of(config), objective=objective_of(config), out=out)


def trace(model: nn.Module, example: Tensor | tuple[int, int, int]) -> Network:
    """Return the network of a module, to analyze and to edit with `cull`, `thin`, `reshape` and `apply_plan`.

    `example` is a batch of images (N, C, H, W) or the shape (C, H, W) of one. The graph is checked against the
    module (`deepreduce.network.guard`) on two of the images, or on random ones if there are fewer. Raises
    `NetworkTraceError` for a module that can't be followed, `NetworkGuardError` where the check fails.
    """
    shape = tuple(example.shape[1:]) if isinstance(example, Tensor) else tuple(example)
    if len(shape) != 3:
        raise DataError(f"the example input is of shape {shape}; give images (N, C, H, W), or one image's (C, H, W)")
    images = example if isinstance(example, Tensor) else None
    return trace_guarded(model, (int(shape[0]), int(shape[1]), int(shape[2])), images=images, must_train=False)


def analyze(
    model: str | nn.Module,
    *,
    input_size: int | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    width: int | None = None,
    blocks: Sequence[int] | None = None,
) -> AnalysisReport:
    """Return where a network's ReLUs are, and what else it computes, for one image of `input_size` pixels square.

    `model` is a name (see `deepreduce models`) or a module. `input_size` defaults to what the network is meant for
    (32 for the zoo and for modules); networks of the zoo and of torchvision are built without allocating weights.
    The report says whether the graph that was counted is the network (`deepreduce.network.guard`): a network with
    weights is compared with it in full, one without weights by the ReLUs that execute. Raises `ModelError` where the
    network is unknown, can't be traced or can't take the input.
    """
    if input_size is not None:
        check_range("the input size", input_size, 1, MOST_PIXELS)
    if isinstance(model, nn.Module):
        size = input_size or 32
        return _analyzed(model, (in_channels, size, size))
    spec = resolve_spec(model, num_classes=num_classes, in_channels=in_channels, width=width, blocks=blocks)
    size = default_input_size(spec) if input_size is None else input_size
    module = build_model(spec, device="cpu" if is_factory(spec.name) else "meta")
    return _analyzed(module, (in_channels, size, size), name=model, spec=spec)


def _analyzed(
    module: nn.Module, input_shape: tuple[int, int, int], *, name: str | None = None, spec: ModelSpec | None = None
) -> AnalysisReport:
    network = trace_for_analysis(module, input_shape, name=name, spec=spec)
    return analyze_network(network, checked=guard_network(network, module))


def _config_of_run(folder: str | Path, data: Any) -> OptimizeConfig:
    """Return the config of a network's run; the defaults only for one outside of a run, with `data` given."""
    return config_for_network(Path(folder), is_given=data is not None)


def _check_fits(network: Network, images: ImageData, folder: str | Path) -> None:
    if images.image_shape != network.input_shape or network.output_shape != (images.num_classes,):
        raise DataError(
            f"{folder} takes images {network.input_shape} and knows {(network.output_shape or ('?',))[0]} classes;"
            f" {images.name} has {images.image_shape} and {images.num_classes}: name its own data set with --data"
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy of a saved network on validation and test images, as fractions."""

    path: str
    label: str
    relu_count: int
    val_accuracy: float
    test_accuracy: float
    test_images: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def evaluate(
    folder: str | Path,
    config: OptimizeConfig | None = None,
    *,
    data: Any = None,
    model: nn.Module | None = None,
    trust_code: bool = False,
) -> Evaluation:
    """Return the accuracy of a network of a run on the data of `config` (None: the run's), or on `data` from Python.

    `model` is the original for a run whose original was a Python module; `trust_code` allows to run the file of a
    model FILE.py:FACTORY. Raises `DataError` where the data do not fit the network.
    """
    config = config or _config_of_run(folder, data)
    device = choose_device(config.device)
    saved = SavedNetwork.read(folder)
    network = saved.load(model, trust_code=trust_code)
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
    trust_code: bool = False,
) -> ExportReport:
    """Write a network of a run as "onnx" or "torch-export", and check the file on test images.

    `fold` merges batch-norms into convolutions. The other arguments are as in `evaluate`. Raises `RunError`,
    leaving nothing behind, where file and network disagree.
    """
    config = config or _config_of_run(folder, data)
    saved = SavedNetwork.read(folder)
    network = saved.load(model, trust_code=trust_code)
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
    batch: int = 1,
    ports: Sequence[int] | None = None,
    timeout_s: float = 600.0,
    data: Any = None,
    model: nn.Module | None = None,
    trust_code: bool = False,
) -> PrivateRun:
    """Run a network of a run under secure computation on its first `images` test images; measure it layer by layer.

    A query takes `batch` of them. Its linear regions are collapsed where that is faster over `link`; with `shape`,
    queries are timed over that link too, as the kernel makes it. What was measured is kept in the network's folder,
    for the plots and tables of its run. `config`, `data`, `model` and `trust_code` are as in `evaluate`, the rest as
    in `deepreduce.private.measure`.
    """
    over = link_named(link)
    check_batch_of(images, batch)
    config = config or _config_of_run(folder, data)
    network = SavedNetwork.read(folder).load(model, trust_code=trust_code)
    found = load_data(config.data, seed=config.seed, given=data)
    _check_fits(network, found, folder)
    measured = measure(
        network,
        first_images(found, images),
        protocol=protocol,
        repeats=repeats,
        batch=batch,
        ports=ports,
        shaped=over if shape else None,
        cost=collapse_cost(protocol, over, batch=batch),
        timeout_s=timeout_s,
    )
    try:
        write_record(Path(folder) / private_run_file(protocol, batch), measured.to_json())
    except DeepReduceError as error:  # a measurement that took minutes is returned all the same
        log.warning("the measurement is not kept: %s", error)
    return measured


def first_images(data: ImageData, count: int) -> Tensor:
    """Return the first test images, (count, C, H, W), standardised. Raises `DataError` where there are fewer."""
    if not 1 <= count <= len(data.test):
        raise DataError(
            f"{count:,} images are asked for; {data.name} has {len(data.test):,} test images, so take 1 to that"
        )
    batches = data.test.eval_batches(batch_size=min(count, _BATCH), device=torch.device("cpu"))
    found: list[Tensor] = []
    while sum(len(batch) for batch in found) < count:
        found.append(next(batches)[0])
    return torch.cat(found)[:count]
