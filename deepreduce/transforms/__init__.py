"""Network in, new network out: apply a plan, or make the plans that cull, thin and reshape; pad once and collapse."""

from deepreduce.transforms.anneal import AnnealedNetwork, anneal
from deepreduce.transforms.apply import apply_plan, normalise_plan
from deepreduce.transforms.collapse.collapse import Collapsed, RegionReport, collapse
from deepreduce.transforms.collapse.pad_once import pad_once
from deepreduce.transforms.edits import THIN_KEEP, cull, cull_plan, reshape, reshape_plan, thin, thin_plan
from deepreduce.transforms.warm_start import can_warm_start, warm_start

__all__ = [
    "THIN_KEEP",
    "AnnealedNetwork",
    "Collapsed",
    "RegionReport",
    "anneal",
    "apply_plan",
    "can_warm_start",
    "collapse",
    "cull",
    "cull_plan",
    "normalise_plan",
    "pad_once",
    "reshape",
    "reshape_plan",
    "thin",
    "thin_plan",
    "warm_start",
]
