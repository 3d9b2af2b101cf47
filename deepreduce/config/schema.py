"""What a run can be told. Every flag of the command line is a field here; a YAML file has the same fields."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from deepreduce.errors import ConfigError, nearest_name


def _no_bool(value: Any) -> Any:
    # pydantic would take true for 1
    if isinstance(value, bool):
        raise ValueError("needs a number")
    return value


def _listed(value: Any) -> Any:
    # so that a command line may say S1,S4 or 0.5 for a list
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (int, float)):
        return [value]
    return value


def _inverse_of_whole(value: float) -> float:
    inverse = 1 / value
    if not math.isfinite(inverse) or not math.isclose(value * round(inverse), 1, rel_tol=1e-9):
        raise ValueError("is realised as a stride of 1/rho, so give 1, 1/2, 1/3, 1/4, ...")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Real = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Scale = Annotated[Real, Field(gt=0, le=1)]
Resolution = Annotated[Scale, AfterValidator(_inverse_of_whole)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]
StageName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]
WholeNotNegative = Annotated[Whole, Field(ge=0)]


class _Section(BaseModel):
    # a title of 2024 is a text, though YAML reads a number
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class ModelConfig(_Section):
    """The original network: a name that `deepreduce models` lists, `torchvision:NAME`, or `FILE.py:FACTORY`."""

    name: str = "resnet18"
    width: Count | None = None
    """Channels of the first stage, for a network of the zoo; None: the published width."""
    blocks: Annotated[tuple[Count, ...], BeforeValidator(_listed)] | None = None
    """Blocks in each stage, for a network of the zoo; None: the published depth."""
    pretrained: bool = False
    """Start from torchvision's weights."""
    weights: str | None = None
    """A safetensors file to start from, for example another run's teacher/model.safetensors."""
    stages: dict[StageName, Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]] | None = None
    """Stages of your own: for each, patterns of the ReLU sites that `deepreduce analyze` lists, as in
    {S1: ["relu", "layer1.*"], S2: "layer[234].*"}; None: the zoo's, or one for each resolution."""


class DataConfig(_Section):
    """The images: `digits`, `cifar10`, `cifar100`, `tinyimagenet:DIR`, `imagefolder:DIR` or `npz:FILE`."""

    name: str = "digits"
    root: str | None = None
    """Folder in which CIFAR lies, or is downloaded to; None: the data set's usual place."""
    download: bool = False
    """Fetch the data set where it is not there."""
    val_fraction: Annotated[Real, Field(gt=0, lt=1)] = 0.1
    """Share of the training images that is held out, to choose networks by."""
    train_limit: Count | None = None
    """Use so many training images only, the classes balanced."""
    test_limit: Count | None = None
    """Use so many test images only, the classes balanced."""
    image_size: Count | None = None
    """Resize images to this height and width in pixels; None: leave them as they are."""
    channels: Literal[1, 3] | None = None
    """3 repeats grey images to RGB, for a network that takes nothing else; None: leave them as they are."""
    pad: WholeNotNegative | None = None
    """Random crops from the image padded by that many pixels; None: what is usual for the data set."""
    flip: bool | None = None
    """Random horizontal flips; None: what is usual for the data set."""
    workers: WholeNotNegative = 0
    """Processes that read image files; data that fit in memory need none."""


class TrainingConfig(_Section):
    """The recipe of teacher and students: SGD with Nesterov momentum, warm-up, cosine decay to zero."""

    epochs: Count = 8
    """The full recipe: of the teacher, and with recipe `paper` of every network."""
    teacher_epochs: WholeNotNegative | None = None
    """None: `epochs`. 0: the network is trained already; take it as it is."""
    batch_size: Count = 64
    learning_rate: Positive = 0.05
    """The highest one, reached after the warm-up."""
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    """Not on norms and biases."""
    warmup_epochs: NotNegative = 1.0
    """May be a fraction of an epoch."""
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    clip_norm: Positive | None = 5.0
    """Bound on the norm of the whole gradient; None: no bound."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is what a short trial finds faster here."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated, and of recipe `fast`'s students no other."""
    checkpoint_seconds: NotNegative = 30.0
    """At most so much work is lost when a run is killed."""


class DistillConfig(_Section):
    """Knowledge distillation of the students from the teacher."""

    temperature: Positive = 4.0
    """Of the softmax over both networks' logits."""
    weight: Fraction = 0.9
    """The teacher's part of the loss; the labels have the rest."""
    remember_gb: NotNegative = 8.0
    """Disk for the teacher's answers, so that it is asked once for each view, not by every student; 0: ask anew."""


class FastConfig(_Section):
    """Recipe `fast`: what the students may cost, and how it is shared out."""

    price: Positive = 1.0
    """Training of all students and probes together, in trainings of the original by `training.epochs`."""
    probe_share: Fraction = 0.2
    """Of the price, for the probes that measure criticality; given to the others where the cull order is given."""
    draft_share: Fraction = 0.8
    """For drafts, of what networks trained alone leave: those of one size share weights; it decides which go on."""
    margin: NotNegative = 0.02
    """A draft is dropped where another network with no more ReLUs is better by this validation accuracy."""
    batch: Annotated[Fraction, Field(gt=0)] = 0.5
    """Batch size of students, and with it their learning rate, in units of the teacher's: few epochs need steps."""
    views: Count = 4
    """Epochs of augmented images that the teacher answers; students are shown them over and over."""
    ease: Fraction = 0.0
    """Share of a student's training over which the ReLUs that it loses go gradually; 0: they are gone at once."""
    rate: Positive = 0.25
    """Highest learning rate of a network trained on its own after its draft, in units of `training.learning_rate`."""


class MethodConfig(_Section):
    """DeepReDuce: which networks are tried."""

    cull_order: Annotated[tuple[str, ...], BeforeValidator(_listed)] | None = None
    """Stages, least critical first, as in S1,S4,S2; None measures it."""
    thin_keep: Literal["first", "last", "both"] = "first"
    """Which ReLU a thinned block keeps; `both` tries either."""
    alphas: Annotated[tuple[Scale, ...], BeforeValidator(_listed), Field(min_length=1)] = (1.0, 0.5)
    """Channel scales, each combined with each of `rhos`."""
    rhos: Annotated[tuple[Resolution, ...], BeforeValidator(_listed), Field(min_length=1)] = (1.0, 0.5)
    """Feature-map resolution scales: 1, 1/2, 1/3, ..."""
    depths: tuple[Annotated[tuple[Count, ...], Field(min_length=1)], ...] | None = None
    """Blocks per stage to try at the smallest alpha and rho, a list for each; None: no such networks, and for an
    objective other than `relus` half the blocks of every stage."""
    pad_once: bool = False
    """Pad regions that culling makes linear once, at their entry: they then collapse into one convolution exactly."""
    criticality_form: Literal["ratio", "difference"] = "ratio"
    """How accuracy and ReLU count of a stage make its criticality."""
    criticality_exponent: NotNegative = 0.07
    """How much the ReLU count weighs in it."""


class CostConfig(_Section):
    """What the frontier's networks cost: their ReLUs, or what secure computation makes of them."""

    objective: Literal["relus", "latency", "bytes"] = "relus"
    """`relus`: DeepReDuce's networks. `latency` (from the image to its logits) and `bytes` (offline included): every
    combination of its levers in which each one pays under the protocol."""
    protocol: str | None = None
    """Of latency and bytes: delphi, delphi-circa, semi2k, cheetah, or mine-cheetah for what 'deepreduce private
    calibrate' measured here; None: cheetah."""
    link: Literal["loopback", "lan", "wan"] | None = None
    """Between the parties: `lan` (3 Gbps, 0.3 ms) or `wan` (400 Mbps, 40 ms), round trips; None: lan."""
    presets: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Protocols and links to estimate all networks for besides, as in cheetah-wan, delphi-lan."""
    gain: Annotated[Real, Field(ge=0, lt=1)] = 0.05
    """With latency and bytes: share of the cost that every lever of a network must save."""
    networks: Count = 16
    """With latency and bytes: try no more networks than that."""

    @model_validator(mode="after")
    def _protocol_of_something(self) -> CostConfig:
        if self.objective == "relus" and (self.protocol or self.link):
            raise ValueError(
                "protocol and link are those of objective latency or bytes; for estimates beside ReLU counts give"
                f" presets, as in {self.protocol or 'cheetah'}-{self.link or 'lan'}"
            )
        return self


class PlotConfig(_Section):
    """The frontier's plot."""

    title: str | None = None
    """None: model and data."""
    published: str | None = None
    """A CSV of published points to draw beside ours, such as docs/published_results.csv."""
    published_dataset: str | None = None
    """Only the points on this data set."""
    published_backbone: str | None = None
    """Only the points of this network."""

    @model_validator(mode="after")
    def _choice_of_something(self) -> PlotConfig:
        if self.published is None and (self.published_dataset or self.published_backbone):
            raise ValueError(
                "published_dataset and published_backbone choose from plot.published, which is not given"
            )
        return self


class OptimizeConfig(_Section):
    """All of a run. `model` and `data` may be given as a plain name."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    distill: DistillConfig = DistillConfig()
    recipe: Literal["fast", "paper"] = "fast"
    """`fast`: students start from each other's weights and together cost as much as the teacher. `paper`: each is
    trained from scratch by the full recipe."""
    fast: FastConfig = FastConfig()
    method: MethodConfig = MethodConfig()
    cost: CostConfig = CostConfig()
    plot: PlotConfig = PlotConfig()
    max_relus: WholeNotNegative | None = None
    """Leave out networks with more ReLUs."""
    max_cost: NotNegative | None = None
    """Leave out networks that cost more by `cost.objective`: in ReLUs, seconds or bytes, as in 2.5 or 50e6."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is CUDA where there is one."""
    threads: Count | None = None
    """Of the CPU; None: one or all, whichever a short trial finds faster. The choice is remembered."""
    side_by_side: Count | None = None
    """Students trained at the same time, by processes of one thread each; None: what the trial finds faster."""
    log: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Observers of the run by name: tensorboard and mlflow keep the curves of all networks, in the run's folder."""

    @field_validator("model", "data", mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("model", "data", "training", "distill", "fast", "method", "cost", "plot", mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        # a heading in a YAML file with every key below it commented out
        return {} if value is None else value


RESULT_FREE = (
    "data.root", "data.download", "data.workers", "training.checkpoint_seconds", "distill.remember_gb",
    "cost.presets", "plot", "device", "threads", "side_by_side", "log",
)  # fmt: skip
"""Keys that change no number of a run: it may be resumed with other values.

Device, threads and networks side by side do change numbers, but only by what they come to, which the run's
identity holds.
"""


def load_config(
    path: str | Path | None = None,
    *,
    values: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> OptimizeConfig:
    """The config of a YAML file, overridden by `values` (nested or dotted keys), then by `key=value` settings.

    Raises `ConfigError` that lists every mistake at once, each with the nearest known name.
    """
    merged: dict[str, Any] = {} if path is None else read_yaml(Path(path))
    mistakes: list[str] = []
    for key, value in (values or {}).items():
        merged = _assigned(merged, key.split("."), value)
    for setting in settings:
        try:
            path_in, value = _setting(setting)
        except ConfigError as error:
            mistakes.append(str(error))
        else:
            merged = _assigned(merged, path_in, value)
    try:
        config = OptimizeConfig.model_validate(merged)
    except ValidationError as error:
        mistakes += _mistakes(error.errors())
    if mistakes:
        # with values or settings besides, a mistake may not be the file's
        source = f"{path}: " if path is not None and not values and not settings else ""
        raise ConfigError(source + _in_one_line(mistakes))
    return config


def _setting(setting: str) -> tuple[list[str], Any]:
    key, separator, text = setting.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise ConfigError(f"setting {setting!r} is not key=value, as in training.epochs=2")
    try:
        return path, _parsed(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"setting {setting!r}: {_flattened(error)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ConfigError` where it is missing, malformed or no mapping."""
    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path} is not text in UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not YAML: {_flattened(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"config {path} holds a {type(content).__name__}; it needs keys and values, as in 'model: resnet18'"
        )
    strange = [key for key in content if not isinstance(key, str)]
    if strange:
        raise ConfigError(f"config {path} has the key {strange[0]!r}; keys are names such as 'model' and 'data'")
    return content


def dump_config(config: OptimizeConfig) -> str:
    """The config as YAML, every key with its value."""
    return yaml.dump(
        config.model_dump(mode="json"),
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=100,
    )


class _Loader(yaml.SafeLoader):
    """YAML that takes 5e-4 for a number, a date for a text, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [(key.value, key.start_mark) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, (name, mark) in enumerate(keys):
            if name in (earlier for earlier, _ in keys[:i]):
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is given twice", mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would take for something else, or change: some breaks of a line to blanks."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        broken = data.splitlines() not in ([data], [])
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if broken else None)


_Dumper.add_representer(str, _Dumper.represent_str)

_FLOAT, _TIMESTAMP = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
# YAML 1.2's; PyYAML follows 1.1, where 5e-4 lacks a point and is a text, and 1:30 is ninety
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_FLOAT, _TIMESTAMP)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver(_FLOAT, _NUMBER, list("-+.0123456789"))


def _parsed(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, RecursionError) as error:
        # an explicit tag that its value does not fit, or thousands of brackets
        raise yaml.YAMLError(str(error)) from error


def differing_keys(a: OptimizeConfig, b: OptimizeConfig) -> list[str]:
    """Dotted keys that differ between two configs and change results, with both values."""
    flat_a, flat_b = _flat(a.model_dump(mode="json")), _flat(b.model_dump(mode="json"))
    return [
        f"{key} ({flat_a.get(key)!r}, now {flat_b.get(key)!r})"
        for key in flat_a | flat_b
        if flat_a.get(key) != flat_b.get(key)
        and not any(key == free or key.startswith(free + ".") for free in RESULT_FREE)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _assigned(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """`values` with one dotted key set; a plain `model: resnet18` becomes `model.name` when a neighbour is set."""
    key, *rest = path
    inside = values.get(key)
    if isinstance(inside, str) and rest:
        inside = {"name": inside}
    section = dict(inside) if isinstance(inside, Mapping) else {}
    if rest:
        value = _assigned(section, rest, value)
    elif isinstance(value, Mapping):
        for inner, inner_value in value.items():
            section = _assigned(section, [inner], inner_value)
        value = section
    elif key in ("model", "data") and isinstance(value, str) and section:
        value = {**section, "name": value}
    return {**values, key: value}


def _mistakes(errors: Sequence[ErrorDetails]) -> list[str]:
    # a list whose items are wrong is reported as too short besides
    broken = {tuple(error["loc"][:-1]) for error in errors}
    return [_mistake(e) for e in errors if not (e["type"] == "too_short" and tuple(e["loc"]) in broken)]


def _mistake(error: ErrorDetails) -> str:
    where = ".".join(part for part in error["loc"] if isinstance(part, str))
    where += "".join(f"[{part}]" for part in error["loc"] if isinstance(part, int))
    if error["type"] == "extra_forbidden":
        return _unknown_key(where)
    if error["type"] in ("model_type", "model_attributes_type"):
        plain = "a name, or " if where in ("model", "data") else ""
        return f"{where} is {error['input']!r}; it needs {plain}keys and values, as in {where}: {{...}}"
    rule = error["msg"].removeprefix("Value error, ").removesuffix(" after validation, not 0")
    rule = f"{rule[0].lower()}{rule[1:]}".replace("tuple", "list")
    return f"{where} is {error['input']!r}: {rule}"


def _unknown_key(where: str) -> str:
    """One line for a key that is not known: the section that has it, or the nearest one, then its neighbours."""
    section, _, name = where.rpartition(".")
    keys = list(_flat(OptimizeConfig().model_dump(mode="json")))
    by_name: dict[str, list[str]] = {}
    for key in keys:
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    beside = [key.removeprefix(f"{section}.") for key in keys if key.startswith(f"{section}.")]
    if not section:
        beside = list(OptimizeConfig.model_fields)
    near = name if name in by_name else nearest_name(name, beside if section else [*beside, *by_name])
    if near in beside:
        nearest = [f"{section}.{near}" if section else near]
    else:
        nearest = by_name.get(near or "", [])
    hint = f"did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    return f"unknown config key {where!r}; {hint}known{' in ' + section if section else ''}: {', '.join(beside)}"


def _in_one_line(mistakes: Sequence[str]) -> str:
    if len(mistakes) == 1:
        return mistakes[0]
    return f"{len(mistakes)} mistakes: " + "; ".join(f"({i}) {text}" for i, text in enumerate(mistakes, start=1))


def _flattened(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())
