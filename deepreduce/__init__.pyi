# The names that `import deepreduce` offers; __init__.py loads each from here when it is first used.

from .api import Evaluation, analyze, evaluate, export_reduced, private_run, trace
from .config.schema import OptimizeConfig, load_config
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
from .plan import Candidate, Measurement, ReductionPlan
from .run.dry_run import DryRun, dry_run
from .run.optimize import optimize
from .run.result import ReducedNetwork, Result, load_result
from .store.checkpoint import load_reduced
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
    "Candidate",
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
    "PlanError",
    "Point",
    "ReducedNetwork",
    "ReductionPlan",
    "ReluSite",
    "Result",
    "RunError",
    "RunFolderError",
    "RunInterrupted",
    "RunObserver",
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
