"""The curves and results of a run's networks, kept for programs that show them: TensorBoard, MLflow."""

from deepreduce.observers.base import LoggedNetwork, RunLogger, RunLoggers, check_installed, open_loggers

__all__ = ["LoggedNetwork", "RunLogger", "RunLoggers", "check_installed", "open_loggers"]
