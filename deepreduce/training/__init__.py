"""One training loop for teacher and students, distillation, and evaluation."""

from deepreduce.training.evaluate import Predictions, churn, predict
from deepreduce.training.loop import EpochRecord, Monitor, Progress, Snapshot, Stopped, Trained, train
from deepreduce.training.losses import Distillation, distillation_loss
from deepreduce.training.recipe import PRECISIONS, Precision, Recipe, choose_precision, learning_rate_at

__all__ = [
    "PRECISIONS",
    "Distillation",
    "EpochRecord",
    "Monitor",
    "Precision",
    "Predictions",
    "Progress",
    "Recipe",
    "Snapshot",
    "Stopped",
    "Trained",
    "choose_precision",
    "churn",
    "distillation_loss",
    "learning_rate_at",
    "predict",
    "train",
]
