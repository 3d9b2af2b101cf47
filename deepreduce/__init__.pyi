# The names that `import deepreduce` offers; __init__.py loads each from here when it is first used.

from .api import (
    Evaluation,
    analyze,
    dry_run,
    evaluate,
    export_reduced,
    load_result,
    optimize,
    private_run,
    trace,
)
from .candidate import Candidate, Measurement
from .config.load import load_config
from .config.schema import OptimizeConfig
from .errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeepReduceError,
    ModelError,
    NetworkTraceError,
    NonFiniteLossError,
    PlanError,
    RunError,
    RunFolderError,
    RunInterrupted,
    UserError,
)
from .frontier import Point, best, dominates, hypervolume, knee, log_cost, pareto_front
from .network import AnalysisReport, Network, ReluSite
from .observers import RunObserver
from .plan import ReductionPlan
from .run.dry_run import DryRun
from .run.result import ReducedNetwork, Result
from .sites import ChannelMask, PixelMask
from .store.checkpoint import load_reduced
from .training.callbacks import CallbackFactory, PreparedStudent, TrainingCallback, TrainingState
from .transforms import (
    apply_plan,
    cull,
    cull_plan,
    reshape,
    reshape_plan,
    thin,
    thin_plan,
)

__all__ = [
    "AnalysisReport",
    "CallbackFactory",
    "Candidate",
    "ChannelMask",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeepReduceError",
    "DryRun",
    "Evaluation",
    "Measurement",
    "ModelError",
    "Network",
    "NetworkTraceError",
    "NonFiniteLossError",
    "OptimizeConfig",
    "PixelMask",
    "PlanError",
    "Point",
    "PreparedStudent",
    "ReducedNetwork",
    "ReductionPlan",
    "ReluSite",
    "Result",
    "RunError",
    "RunFolderError",
    "RunInterrupted",
    "RunObserver",
    "TrainingCallback",
    "TrainingState",
    "UserError",
    "analyze",
    "apply_plan",
    "best",
    "cull",
    "cull_plan",
    "dominates",
    "dry_run",
    "evaluate",
    "export_reduced",
    "hypervolume",
    "knee",
    "load_config",
    "load_reduced",
    "load_result",
    "log_cost",
    "optimize",
    "pareto_front",
    "private_run",
    "reshape",
    "reshape_plan",
    "thin",
    "thin_plan",
    "trace",
]
