"""The command line, which alone prints and exits. Everything that it does is in the Python API too."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from tqdm import tqdm

from deepreduce.cli import private as private_cli
from deepreduce.cli.checks import check_writable, whole_numbers
from deepreduce.cli.outcome import exit_code_of
from deepreduce.cli.output import say
from deepreduce.errors import UserError
from deepreduce.utils.printable import PrintableFormatter, printable

if TYPE_CHECKING:
    from deepreduce.config.schema import OptimizeConfig
    from deepreduce.observers import RunObserver

app = typer.Typer(
    name="deepreduce",
    help="Fewer ReLUs for private inference: from a network to its ReLU/accuracy frontier.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(private_cli.app, name="private")

Model = Annotated[
    str, typer.Option("--model", help="A name of 'deepreduce models', torchvision:NAME, or FILE.py:FACTORY.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any config key, as in training.epochs=2. Repeatable."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file of config keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run the file of a model FILE.py:FACTORY, which builds the network.")
]


@app.command()
def analyze(
    model: Model = "resnet18",
    num_classes: Annotated[int | None, typer.Option(help="Classes (default: the network's usual number).")] = None,
    input_size: Annotated[int | None, typer.Option(help="Height and width of the image in pixels.")] = None,
    in_channels: Annotated[int, typer.Option(help="Channels of the image.")] = 3,
    width: Annotated[int | None, typer.Option(help="Channels of the first stage (zoo networks).")] = None,
    blocks: Annotated[str | None, typer.Option(help="Blocks per stage, as in 2,2,2,2 (zoo networks).")] = None,
    as_json: AsJson = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the sites to this CSV file.")] = None,
) -> None:
    """Count a network's ReLUs per stage and per site, with what else it computes. Needs no data."""
    from deepreduce.api import analyze as analyze_model
    from deepreduce.utils.files import write_text

    check_writable(csv_file)
    report = analyze_model(
        model,
        input_size=input_size,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        blocks=None if blocks is None else whole_numbers(blocks, "--blocks"),
    )
    if csv_file is not None:
        write_text(csv_file, report.to_csv())
    say(json.dumps(report.to_json(), indent=2) if as_json else report.to_text())
    if csv_file is not None and not as_json:
        say(f"\nSites written to {csv_file}.")


@app.command()
def optimize(
    model: Annotated[
        str | None,
        typer.Option("--model", help="A name of 'deepreduce models', torchvision:NAME, or FILE.py:FACTORY."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="digits, cifar10, cifar100, tinyimagenet:DIR, imagefolder:DIR or npz:FILE (default: digits).",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run's folder (default: a new one under runs/).")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="fast: all students for the price of the teacher (default). full: each by the full recipe, from the"
            " teacher's weights. paper: each from scratch."
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="What networks cost: relus (default), or latency or bytes under --protocol over --link."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="delphi, delphi-circa, semi2k, cheetah (default), or mine-NAME from 'private calibrate'."),
    ] = None,
    link: Annotated[str | None, typer.Option(help="Between the parties: loopback, lan (default) or wan.")] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option("--preset", help="Estimate costs for this too, as in delphi-wan. Repeatable."),
    ] = None,
    max_relus: Annotated[int | None, typer.Option(help="Leave out networks with more ReLUs.")] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(help="Leave out networks that cost more by --objective: ReLUs, seconds or bytes, as in 50e6."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="Keep curves for tensorboard or mlflow too. Repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the networks and the time; train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train, cull, thin, reshape and distill: find the frontier of ReLUs, latency or bytes against accuracy.

    To resume a run, repeat the command with the same --out.
    """
    from deepreduce import api
    from deepreduce.config.load import resolve_config

    given = {
        "recipe": recipe, "max_relus": max_relus, "max_cost": max_cost, "seed": seed, "device": device, "log": log,
        "cost.objective": objective, "cost.protocol": protocol, "cost.link": link, "cost.presets": preset,
    }  # fmt: skip
    chosen = resolve_config(
        model=model,
        data=data,
        config=config,
        settings=settings or (),
        values={key: value for key, value in given.items() if value is not None},
    )
    if dry_run:
        planned = api.dry_run(chosen)
        say(json.dumps(planned.to_json(), indent=2) if as_json else planned.to_text())
        return
    with _progress_shown() as progress:
        result = api.optimize(config=chosen, out=out, observers=[progress])
    if as_json:
        say(json.dumps(result.to_json(), indent=2))
        return
    say(result.table())
    say(f"\n{result.summary()}")


@app.command()
def evaluate(
    candidate: Annotated[Path, typer.Argument(help="The folder of a network: RUN/candidates/HASH or RUN/teacher.")],
    data: Annotated[str | None, typer.Option("--data", help="Another data set than the run's.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Load a reduced network back and measure its accuracy."""
    from deepreduce.api import evaluate as evaluate_network

    chosen = _config_of(candidate, config, data, settings, device=device)
    found = evaluate_network(candidate, chosen, trust_code=trust_code)
    if as_json:
        say(json.dumps(found.to_json(), indent=2))
        return
    say(f"{found.path}: {printable(found.label)}, {found.relu_count:,} ReLUs")
    say(f"validation accuracy {100 * found.val_accuracy:.2f} %")
    say(f"test accuracy       {100 * found.test_accuracy:.2f} % ({found.test_images:,} images)")


@app.command()
def export(
    candidate: Annotated[Path, typer.Argument(help="The folder of a network: RUN/candidates/HASH or RUN/teacher.")],
    to: Annotated[str, typer.Option("--to", help="onnx, or torch-export (an ExportedProgram).")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    fold: Annotated[bool, typer.Option("--fold", help="Merge batch-norms into convolutions.")] = False,
    data: Annotated[str | None, typer.Option("--data", help="Check it on other images than the run's.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Write a reduced network as ONNX or for torch.export, checked on test images: agree or fail."""
    from deepreduce.api import export_reduced

    check_writable(out)
    chosen = _config_of(candidate, config, data, settings)
    written = export_reduced(candidate, chosen, to=to, out=out, fold=fold, trust_code=trust_code)
    if as_json:
        say(json.dumps(written.to_json(), indent=2))
        return
    say(f"{written.path}: {written.relu_count:,} ReLUs, {written.file_bytes:,} bytes")
    say(
        f"agrees with PyTorch on {written.checked_images} test images: same predictions, largest difference of logits"
        f" {written.max_abs_error:.3g}"
    )


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    title: Annotated[str | None, typer.Option(help="Title of the plots.")] = None,
    published: Annotated[Path | None, typer.Option(help="A CSV file of published points to draw as well.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only the published points on this data set.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Only the published points of this network.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only published points of this method. Repeatable.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="The cost to draw by: relus, latency or bytes (default: the run's).")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Latency or bytes under this, as in cheetah-lan, measured-cheetah-loopback."),
    ] = None,
) -> None:
    """Draw a run's frontier, layers and costs again, with another cost, title or published points beside them."""
    from deepreduce.api import redraw
    from deepreduce.report.published import Overlay

    if published is None and (dataset or backbone or method):
        raise UserError("--dataset, --backbone and --method choose published points; give --published CSV with them")
    overlay = None
    if published is not None:
        overlay = Overlay(
            path=published, dataset=dataset, backbone=backbone, methods=tuple(method) if method else None
        )
    for path in redraw(run, title=title, overlay=overlay, objective=objective, preset=preset):
        say(path)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    out: Annotated[Path | None, typer.Option("--out", help="The file to write (default: RUN/report.html).")] = None,
) -> None:
    """Write a run as one interactive page that opens anywhere, without a network. Needs deepreduce[report]."""
    from deepreduce.api import report_run

    check_writable(out)
    say(report_run(run, out=out))


@app.command()
def models() -> None:
    """List the networks and data sets that have names."""
    from deepreduce.data import DATASETS
    from deepreduce.models import ZOO

    rows = [(name, entry.description) for name, entry in ZOO.items()]
    rows += [
        ("torchvision:NAME", "torchvision's classification networks, as in torchvision:resnet50"),
        ("FILE.py:FACTORY", "your own: a function that returns a torch.nn.Module"),
    ]
    for heading, table in (("models (--model)", rows), ("data (--data)", list(DATASETS.items()))):
        say(heading)
        width = max(len(name) for name, _ in table)
        for name, description in table:
            say(f"  {name:<{width}}  {description}")
        say()


@app.command()
def methods() -> None:
    """List the methods that propose networks (method.name): paper, unit, epochs of one network, and options."""
    import shutil
    import textwrap
    from typing import Literal, get_args, get_origin

    from deepreduce.methods.registry import facts_of, method_named, method_names

    width = min(shutil.get_terminal_size().columns, 100)
    for name in method_names():
        method = method_named(name)
        say(textwrap.fill(f"{name}: {method.summary}", width, subsequent_indent="  "))
        for fact, text in facts_of(method).items():
            say(textwrap.fill(f"{fact}: {text}", width, initial_indent="  ", subsequent_indent="      "))
        for key, field in method.Options.model_fields.items():
            if key != "name":
                choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
                facts = [f"one of: {', '.join(map(str, choices))}"] if choices else []
                facts.append(f"default: {_yaml_of(field.default)}")
                text = f"{' '.join((field.description or '').split())} ({'; '.join(facts)})"
                say(textwrap.fill(text, width, initial_indent=f"  method.{key}  ", subsequent_indent="      "))
        say()


def _yaml_of(value: Any) -> str:
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        say(f"deepreduce {installed('deepreduce')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())


def _config_of(
    candidate: Path, config: Path | None, data: str | None, settings: list[str] | None, *, device: str | None = None
) -> OptimizeConfig:
    from deepreduce.config.load import config_for_network

    values = {"device": device} if device is not None else {}
    return config_for_network(candidate, config=config, data=data, settings=settings or (), values=values)


# -- progress and logging -----------------------------------------------------------------------------------


class _ToTerminal(logging.Handler):
    """Log lines that don't tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _progress_shown() -> Iterator[RunObserver]:
    """Show a bar where standard error is a terminal, log lines elsewhere; warnings show in both."""
    from deepreduce.observers.progress import ProgressBar, ProgressLog

    on_terminal = sys.stderr.isatty()
    handler: logging.Handler = _ToTerminal() if on_terminal else logging.StreamHandler(sys.stderr)
    form = "%(message)s" if on_terminal else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(PrintableFormatter(form, datefmt="%H:%M:%S"))
    handler.setLevel(logging.WARNING if on_terminal else logging.INFO)
    logger = logging.getLogger("deepreduce")
    logger.addHandler(handler)
    progress = ProgressBar(sys.stderr) if on_terminal else ProgressLog()
    try:
        yield progress
    finally:
        progress.close()
        logger.removeHandler(handler)


def main() -> NoReturn:
    """The console script: one line for every foreseen error, never a traceback for a user's mistake."""
    # threads that spin while they wait make training several times slower when other programs use the cores too;
    # OpenMP reads this once, when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal of another encoding may lack a character of a label
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run_command(sys.argv[1:]))


def run_command(words: list[str]) -> int:
    """Run `deepreduce WORDS`, print what it has to say, and return its exit code."""
    return exit_code_of(lambda: app(words, standalone_mode=False), words)
