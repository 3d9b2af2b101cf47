"""Fewer ReLUs for private inference: from a network to its ReLU/accuracy frontier.

import deepreduce

print(deepreduce.analyze("resnet18").to_text())
result = deepreduce.optimize("resnet18", "digits", out="runs/digits")
small = result.best(max_relus=10_000).model     # an ordinary nn.Module
"""

from deepreduce.api import Evaluation, analyze, evaluate, trace
from deepreduce.config import OptimizeConfig, load_config
from deepreduce.errors import (
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
from deepreduce.export import load_reduced
from deepreduce.frontier import Point, best, dominates, hypervolume, knee, log_cost, pareto_front
from deepreduce.network import AnalysisReport, Network, ReluSite
from deepreduce.pipeline import DryRun, dry_run, optimize
from deepreduce.plan import Candidate, Measurement, ReductionPlan
from deepreduce.results import ReducedNetwork, Result
from deepreduce.transforms import (
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
    "UserError",
    "analyze",
    "apply_plan",
    "best",
    "cull",
    "cull_plan",
    "dominates",
    "dry_run",
    "evaluate",
    "hypervolume",
    "knee",
    "load_config",
    "load_reduced",
    "log_cost",
    "optimize",
    "pareto_front",
    "reshape",
    "reshape_plan",
    "thin",
    "thin_plan",
    "trace",
]
