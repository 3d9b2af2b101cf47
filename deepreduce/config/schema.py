"""All settings of a run. Every flag of the command line is a field here; a YAML file has the same fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from deepreduce.cost.objective import known_objectives, objective_class
from deepreduce.errors import UserError, unknown_name
from deepreduce.methods.options import MethodOptions
from deepreduce.utils.fields import (
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

FROM_PYTHON = "python:"
"""Starts the name of a model or data set that was handed over from Python and has no name of its own."""


def _known_objective(name: str) -> str:
    if name not in known_objectives():
        raise ValueError(unknown_name("objective", name, known_objectives()))
    return name


class _Section(BaseModel):
    # a title of 2024 is a text, though YAML reads a number
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class ModelConfig(_Section):
    """The original network: a name that `deepreduce models` lists, `torchvision:NAME`, or `FILE.py:FACTORY`."""

    name: str = "resnet18"
    width: Count | None = None
    """Channels of the first stage, for a network of the zoo; None: the published width."""
    blocks: Annotated[tuple[Count, ...], Listed] | None = None
    """Blocks in each stage, for a network of the zoo; None: the published depth."""
    pretrained: bool = False
    """Start from torchvision's weights."""
    weights: str | None = None
    """A safetensors file to start from, for example another run's teacher/model.safetensors."""
    stages: dict[StageName, Annotated[tuple[str, ...], Listed, Field(min_length=1)]] | None = None
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


def _choose_options(value: Any) -> MethodOptions:
    """Return the options of the method that `value` names; it is a name, a section of the config, or the options."""
    # a method's module imports torch, which a command line that only prints help does without
    from deepreduce.methods.registry import method_named

    if isinstance(value, MethodOptions):
        return value
    section = {} if value is None else {"name": value} if isinstance(value, str) else value
    if not isinstance(section, Mapping):
        raise ValueError("needs the name of a method, or keys and values, as in method: {...}")
    name = section.get("name")
    try:
        method = method_named(DEFAULT_METHOD if name is None else str(name))
    except UserError as error:
        raise ValueError(str(error)) from error
    return method.Options.model_validate(section)


MethodSection = Annotated[SerializeAsAny[MethodOptions], PlainValidator(_choose_options)]

DEFAULT_METHOD = "deepreduce"


class CostConfig(_Section):
    """The cost that the frontier is about: ReLUs, or latency or bytes under secure computation."""

    objective: Annotated[str, AfterValidator(_known_objective)] = "relus"
    """`relus`: DeepReDuce's networks. `latency` (from the image to its logits) and `bytes` (offline included): every
    combination of its levers in which each one pays under the protocol."""
    protocol: str | None = None
    """Of latency and bytes: delphi, delphi-circa, semi2k, cheetah, or mine-cheetah for what 'deepreduce private
    calibrate' measured here; None: cheetah."""
    link: Literal["loopback", "lan", "wan"] | None = None
    """Between the parties: `lan` (3 Gbps, 0.3 ms) or `wan` (400 Mbps, 40 ms), round trips; None: lan."""
    presets: Annotated[tuple[str, ...], Listed] = ()
    """Protocols and links to estimate all networks for besides, as in cheetah-wan, delphi-lan."""
    gain: Annotated[Real, Field(ge=0, lt=1)] = 0.05
    """With latency and bytes: share of the cost that every lever of a network must save."""
    networks: Count = 16
    """With latency and bytes: try no more networks than that."""

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
    method: MethodSection = Field(default=None, validate_default=True)
    """The method that proposes networks: its name, and its options (`deepreduce methods` lists both)."""
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
    log: Annotated[tuple[str, ...], Listed] = ()
    """Observers of the run by name: tensorboard and mlflow keep the curves of all networks, in the run's folder."""

    @field_validator("model", "data", mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("model", "data", "training", "distill", "fast", "cost", "plot", mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        # a heading in a YAML file with every key below it commented out
        return {} if value is None else value
