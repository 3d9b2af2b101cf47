"""Followers of a run through one interface: progress bar, log lines, TensorBoard, MLflow and a user's own."""

from deepreduce.observers.base import ObservedNetwork, Observers, RunObserver
from deepreduce.observers.registry import make_observers

__all__ = ["ObservedNetwork", "Observers", "RunObserver", "make_observers"]
