"""One published method per file: each turns a network into plans, and asks a function for what needs training."""

from deepreduce.methods.deepreduce import CRITICALITY_FORMS, DeepReduceMethod, Probe, criticality, propose
from deepreduce.methods.levers import LeverSearch, propose_by_levers
from deepreduce.methods.proposal import Pricing, Proposal, Proposals

__all__ = [
    "CRITICALITY_FORMS",
    "DeepReduceMethod",
    "LeverSearch",
    "Pricing",
    "Probe",
    "Proposal",
    "Proposals",
    "criticality",
    "propose",
    "propose_by_levers",
]
