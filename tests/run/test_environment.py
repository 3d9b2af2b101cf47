"""What a resumed run must share: the network's graph and weights, the data, the arithmetic."""

from __future__ import annotations

import torch

from deepreduce.network import trace_network
from deepreduce.run.environment import describe_environment, fingerprint, versions
from deepreduce.training import Precision
from deepreduce.training.autotune import ExecutionPlan
from tests.helpers.training import tiny

PLAN = ExecutionPlan(precision=Precision(bf16=False, channels_last=True), threads=3, workers=2)


def test_a_fingerprint_follows_from_graph_and_weights() -> None:
    same = [fingerprint(trace_network(tiny(seed=1), (3, 8, 8))) for _ in range(2)]
    assert same[0] == same[1]
    changed = tiny(seed=1)
    with torch.no_grad():
        changed.fc.bias[0] += 1e-6
    assert fingerprint(trace_network(changed, (3, 8, 8))) != same[0]
    assert fingerprint(trace_network(tiny(seed=1, dropout=0.5), (3, 8, 8))) == same[0]  # no weights, same graph


def test_the_identity_holds_what_numbers_depend_on_and_the_plan_reads_back() -> None:
    network = trace_network(tiny(), (3, 8, 8))
    found = describe_environment(network, data_fingerprint="abc", device=torch.device("cpu"), execution=PLAN)
    assert found["identity"] == {
        "model": fingerprint(network), "data": "abc", "device": "cpu", "threads": 3, "student_threads": 1,
        "precision": "fp32 channels_last",
    }  # fmt: skip
    assert ExecutionPlan.from_json(found["arrangement"]) == PLAN
    assert {"python", "torch", "numpy", "deepreduce"} <= set(versions())


def test_callbacks_are_part_of_the_identity() -> None:
    network = trace_network(tiny(), (3, 8, 8))
    options = {"data_fingerprint": "abc", "device": torch.device("cpu"), "execution": PLAN}
    found = describe_environment(network, callbacks=["Average(0.9)"], **options)
    assert found["identity"]["callbacks"] == ["Average(0.9)"]
