"""Networks as traced graphs: ReLU sites, stages, other non-linearities and multiply-accumulates."""

from deepreduce.network.analyze import AnalysisReport, analyze_network
from deepreduce.network.compute_cost import ComputeCost
from deepreduce.network.guard import GuardReport, guard_network, trace_guarded
from deepreduce.network.network import LinearLayer, Network, ReluSite
from deepreduce.network.trace import trace_network, without_weights
from deepreduce.network.trace_export import trace_for_analysis

__all__ = [
    "AnalysisReport",
    "ComputeCost",
    "GuardReport",
    "LinearLayer",
    "Network",
    "ReluSite",
    "analyze_network",
    "guard_network",
    "trace_for_analysis",
    "trace_guarded",
    "trace_network",
    "without_weights",
]
