"""The content of environment.json: software, hardware, and fingerprints of a run's inputs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deepreduce.network import Network
from deepreduce.training.autotune import ExecutionPlan

_PACKAGES = ("deepreduce", "torch", "torchvision", "numpy")
"""Packages that numbers depend on."""


def describe_environment(
    network: Network,
    *,
    data_fingerprint: str,
    device: torch.device,
    execution: ExecutionPlan,
    callbacks: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of environment.json; its "identity" holds what a resumed run must share.

    `callbacks` describe what the caller has put into the trainings.
    """
    precision = execution.precision
    arithmetic = f"{'bf16' if precision.bf16 else 'fp32'}{' channels_last' if precision.channels_last else ''}"
    on_cpu = device.type == "cpu"
    identity = {
        "model": fingerprint(network),
        "data": data_fingerprint,
        "device": device.type,
        "threads": execution.threads if on_cpu else 0,
        "student_threads": execution.student_threads if on_cpu else 0,
        "precision": arithmetic,
    }
    return {
        "versions": dict(versions()),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "arrangement": execution.to_json(),
        "identity": identity | ({"callbacks": list(callbacks)} if callbacks else {}),
    }


def fingerprint(network: Network) -> str:
    """Return a short hash of a network's graph and weights."""
    digest = hashlib.blake2b(digest_size=8)
    for node in network.module.graph.nodes:
        digest.update(f"{node.op} {node.target} {[n.name for n in node.all_input_nodes]};".encode())
    for name, tensor in sorted(network.module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> Mapping[str, str]:
    """Return the versions of everything that numbers depend on."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
