"""One published method per file: each turns a network into plans, and asks a function for what needs training."""

from deepreduce.methods.deepreduce import CRITICALITY_FORMS, DeepReduceMethod, Probe, criticality, propose
from deepreduce.methods.proposal import Proposal, Proposals

__all__ = ["CRITICALITY_FORMS", "DeepReduceMethod", "Probe", "Proposal", "Proposals", "criticality", "propose"]
