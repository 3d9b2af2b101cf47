"""The curves and results of a run's networks, kept for programs that show them: TensorBoard, MLflow."""

from deepreduce.observers.base import (
    ObservedNetwork,
    RunLogger,
    RunLoggers,
    RunObserver,
    check_installed,
    open_loggers,
)

__all__ = ["ObservedNetwork", "RunLogger", "RunLoggers", "RunObserver", "check_installed", "open_loggers"]
