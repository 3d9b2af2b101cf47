"""Network in, new network out: apply a plan, or make the plans that cull, thin and reshape."""

from deepreduce.transforms.apply import apply_plan, normalise_plan
from deepreduce.transforms.edits import THIN_KEEP, cull, cull_plan, reshape, reshape_plan, thin, thin_plan

__all__ = [
    "THIN_KEEP",
    "apply_plan",
    "cull",
    "cull_plan",
    "normalise_plan",
    "reshape",
    "reshape_plan",
    "thin",
    "thin_plan",
]
