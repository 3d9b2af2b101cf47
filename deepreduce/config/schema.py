"""All settings of a run. Every flag of the command line is a field here; a YAML file has the same fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from deepreduce.cost.objective import known_objectives, objective_class
from deepreduce.errors import UserError, unknown_name
from deepreduce.methods.options import MethodOptions
from deepreduce.utils.fields import (
    MOST_BLOCKS,
    MOST_PIXELS,
    MOST_WIDTH,
    CheckedTexts,
    Count,
    Fraction,
    Listed,
    NotNegative,
    Positive,
    Real,
    StageName,
    Whole,
    WholeNotNegative,
)

_Processes = Annotated[Whole, Field(le=128)]
_PathText = Annotated[str, Field(min_length=1)]
_Names = Annotated[tuple[str, ...], Listed, Field(max_length=64)]

FROM_PYTHON = "python:"
"""Starts the name of a model or data set that was passed from Python and has no name of its own."""


def _known_objective(name: str) -> str:
    if name not in known_objectives():
        raise ValueError(unknown_name("objective", name, known_objectives()))
    return name


class _Section(CheckedTexts):
    # a title of 2024 is a text, though YAML reads a number
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class ModelConfig(_Section):
    """The original network: a name that `deepreduce models` lists, `torchvision:NAME`, or `FILE.py:FACTORY`."""

    name: str = "resnet18"
    width: Annotated[Count, Field(le=MOST_WIDTH)] | None = None
    """Channels of the first stage, for a network of the zoo; None: the published width."""
    blocks: Annotated[tuple[Annotated[Count, Field(le=MOST_BLOCKS)], ...], Listed, Field(max_length=16)] | None = None
    """Blocks in each stage, for a network of the zoo; None: the published depth."""
    pretrained: bool = False
    """Start from torchvision's weights."""
    weights: _PathText | None = None
    """A safetensors file to start from, for example another run's teacher/model.safetensors."""
    stages: (
        Annotated[
            dict[StageName, Annotated[tuple[str, ...], Listed, Field(min_length=1, max_length=10_000)]],
            Field(min_length=1, max_length=64),
        ]
        | None
    ) = None
    """Stages of your own: for each, patterns of the ReLU sites that `deepreduce analyze` lists, as in
    {S1: ["relu", "layer1.*"], S2: "layer[234].*"}; None: the zoo's, or one for each resolution."""


class DataConfig(_Section):
    """The images: `digits`, `cifar10`, `cifar100`, `tinyimagenet:DIR`, `imagefolder:DIR` or `npz:FILE`."""

    name: str = "digits"
    root: _PathText | None = None
    """Folder that holds CIFAR, or that it is downloaded to; None: the data set's usual folder."""
    download: bool = False
    """Download the data set if it is missing."""
    val_fraction: Annotated[Real, Field(gt=0, lt=1)] = 0.1
    """Share of the training images that is held out for validation, which chooses networks."""
    train_limit: Count | None = None
    """Use only this number of training images, with balanced classes; None: all."""
    test_limit: Count | None = None
    """Use only this number of test images, with balanced classes; None: all."""
    image_size: Annotated[Count, Field(le=MOST_PIXELS)] | None = None
    """Resize images to this height and width in pixels; None: leave them as they are."""
    channels: Literal[1, 3] | None = None
    """3 repeats grey images to RGB, for a network that needs 3 channels; None: leave them as they are."""
    pad: Annotated[WholeNotNegative, Field(le=MOST_PIXELS)] | None = None
    """Take random crops from the image padded by this number of pixels; None: the data set's usual padding."""
    flip: bool | None = None
    """Flip images horizontally at random; None: what is usual for the data set."""
    workers: Annotated[_Processes, Field(ge=0)] = 0
    """Processes that read image files; 0 for data that fit into memory."""


class TrainingConfig(_Section):
    """The recipe of teacher and students: SGD with Nesterov momentum, warm-up, cosine decay to zero."""

    epochs: Count = 8
    """Epochs of the full recipe: of the teacher, and with recipes `full` and `paper` of every network."""
    teacher_epochs: WholeNotNegative | None = None
    """Epochs of the teacher; None: `epochs`; 0: the network is trained already and used as it is."""
    batch_size: Count = 64
    learning_rate: Annotated[Positive, Field(le=1e6)] = 0.05
    """Highest learning rate, reached after the warm-up."""
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[NotNegative, Field(le=1e6)] = 5e-4
    """Weight decay, which norms and biases do not have."""
    warmup_epochs: Annotated[NotNegative, Field(le=1e9)] = 1.0
    """Epochs of linear warm-up, which may be a fraction."""
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    clip_norm: Positive | None = 5.0
    """Bound on the norm of the whole gradient; None: no bound."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training; `auto`: what a short trial finds faster on this machine."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated, and students of recipe `fast` then only."""
    checkpoint_seconds: NotNegative = 30.0
    """Seconds between snapshots: the most work that is lost when a run is killed."""


class DistillConfig(_Section):
    """Knowledge distillation of the students from the teacher."""

    temperature: Annotated[Real, Field(ge=1e-3, le=1e6)] = 4.0
    """Temperature of the softmax over both networks' logits; its square multiplies the loss."""
    weight: Fraction = 0.9
    """Weight of the teacher's part of the loss; the labels have the rest."""
    remember_gb: Annotated[NotNegative, Field(le=1e6)] = 8.0
    """Disk space in GB for the teacher's logits of augmented images, computed once for all students; 0: no cache."""


class FastConfig(_Section):
    """Recipe `fast`: the price of all students, and how it is shared among them."""

    price: Annotated[Positive, Field(le=1e6)] = 1.0
    """Price of all students and probes together, in units of training the original for `training.epochs`."""
    probe_share: Fraction = 0.2
    """Share of the price for the probes that measure criticality; if the cull order is given, students have it."""
    batch: Annotated[Fraction, Field(gt=0)] = 0.5
    """Batch size of students, and learning rate in proportion, in units of the teacher's: few epochs need steps."""
    views: Count = 4
    """Epochs of augmented images whose teacher logits are computed; students see these images again and again."""
    ease: Fraction = 0.0
    """Share of a student's training over which its dropped ReLUs are annealed; 0: they are removed at once."""


def default_method(*, recipe: str, objective: str) -> str:
    """Return the method of a config that names none: what gives the best frontier that was measured."""
    if objective != "relus":
        return "levers"
    return "deepreduce" if recipe == "paper" else "taylor"


def _choose_options(value: Any, info: ValidationInfo) -> MethodOptions:
    """Return the options of the method that `value` names; it is a name, a section of the config, or the options."""
    # a method's module imports torch, which a command line that only prints help does without
    from deepreduce.methods.registry import method_named

    if isinstance(value, MethodOptions):
        return value
    section = {} if value is None else {"name": value} if isinstance(value, str) else value
    if not isinstance(section, Mapping):
        raise ValueError("needs the name of a method, or keys and values, as in method: {...}")
    name = section.get("name")
    if name is None:  # the fields before this one, unless they are refused
        cost = info.data.get("cost")
        name = default_method(
            recipe=info.data.get("recipe", "fast"), objective="relus" if cost is None else cost.objective
        )
    try:
        method = method_named(str(name))
    except UserError as error:
        raise ValueError(str(error)) from error
    return method.Options.model_validate(section)


MethodSection = Annotated[SerializeAsAny[MethodOptions], PlainValidator(_choose_options)]


class CostConfig(_Section):
    """The cost that the frontier is about: ReLUs, or latency or bytes under secure computation."""

    objective: Annotated[str, AfterValidator(_known_objective)] = "relus"
    """`relus`: ReLU count. `latency`: seconds from an image to its logits. `bytes`: bytes sent, offline included.
    With the latter two, networks are combinations of levers that each pay under the protocol (method `levers`)."""
    protocol: str | None = None
    """Protocol of latency and bytes: delphi, delphi-circa, semi2k, cheetah, or mine-cheetah for what 'deepreduce
    private calibrate' measured on this machine; None: cheetah."""
    link: Literal["loopback", "lan", "wan"] | None = None
    """Link between the parties: `lan` (3 Gbps, 0.3 ms) or `wan` (400 Mbps, 40 ms), round trips; None: lan."""
    presets: _Names = ()
    """Further presets to estimate every network's costs under, as in cheetah-wan, delphi-lan."""
    gain: Annotated[Real, Field(ge=0, lt=1)] = 0.05
    """With latency and bytes: a network is tried only if each of its levers saves this share."""
    networks: Count = 16
    """With latency and bytes: try at most this number of networks."""

    @model_validator(mode="after")
    def _protocol_of_something(self) -> CostConfig:
        if (self.protocol or self.link) and not objective_class(self.objective).needs_preset:
            raise ValueError(
                f"objective {self.objective} has no protocol and no link; for estimates as well give presets, as in"
                f" {self.preset}"
            )
        return self

    @property
    def preset(self) -> str:
        """The protocol and link, as the name of a preset."""
        return f"{self.protocol or 'cheetah'}-{self.link or 'lan'}"


class PlotConfig(_Section):
    """The frontier's plot."""

    title: Annotated[str, Field(max_length=500)] | None = None
    """Title of the plots; None: model and data."""
    published: _PathText | None = None
    """A CSV file of published points to draw as well, such as docs/published_results.csv."""
    published_dataset: str | None = None
    """Draw only the published points on this data set."""
    published_backbone: str | None = None
    """Draw only the published points of this network."""

    @model_validator(mode="after")
    def _choice_of_something(self) -> PlotConfig:
        if self.published is None and (self.published_dataset or self.published_backbone):
            raise ValueError(
                "published_dataset and published_backbone choose from plot.published, which is not given"
            )
        return self


class OptimizeConfig(_Section):
    """The config of a run. `model`, `data` and `method` may be given as a plain name."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    distill: DistillConfig = DistillConfig()
    recipe: Literal["fast", "full", "paper"] = "fast"
    """`fast`: students start from trained weights and together cost as much as the teacher. `full`: each is trained
    by the full recipe from the teacher's weights. `paper`: each is trained by the full recipe from scratch."""
    fast: FastConfig = FastConfig()
    cost: CostConfig = CostConfig()
    method: MethodSection = Field(default=None, validate_default=True)
    """The method that proposes networks: its name, and its options (`deepreduce methods` lists both). Without a name:
    `taylor`; with recipe `paper` `deepreduce`, and with an objective other than ReLUs `levers`."""
    plot: PlotConfig = PlotConfig()
    max_relus: WholeNotNegative | None = None
    """Leave out networks with more ReLUs."""
    max_cost: NotNegative | None = None
    """Leave out networks that cost more by `cost.objective`: in ReLUs, seconds or bytes, as in 2.5 or 50e6."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto`: CUDA if there is a device, else the CPU."""
    threads: Annotated[Count, Field(le=1_024)] | None = None
    """CPU threads, at most 1,024; None: one or all, whichever a short trial finds faster. The choice is cached."""
    side_by_side: Annotated[_Processes, Field(ge=1)] | None = None
    """Students trained in parallel, by processes of one thread each; None: what the trial finds faster."""
    log: _Names = ()
    """Observers of the run by name: tensorboard and mlflow write the curves of all networks into the run's folder."""

    @field_validator("model", "data", mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("model", "data", "training", "distill", "fast", "cost", "plot", mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        # a heading in a YAML file with every key below it commented out
        return {} if value is None else value
