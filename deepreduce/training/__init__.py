"""One training loop for teacher and students, distillation, and evaluation."""

from deepreduce.training.batchnorm import recompute_statistics
from deepreduce.training.distillation import Distillation, distillation_loss
from deepreduce.training.evaluate import Predictions, churn, predict
from deepreduce.training.logits_cache import Lesson, RememberedLogits
from deepreduce.training.loop import (
    EpochRecord,
    Monitor,
    Progress,
    Snapshot,
    Stopped,
    Trained,
    Views,
    train,
)
from deepreduce.training.recipe import PRECISIONS, Precision, Recipe, choose_precision, learning_rate_at
from deepreduce.training.weight_sharing import Family

__all__ = [
    "PRECISIONS",
    "Distillation",
    "EpochRecord",
    "Family",
    "Lesson",
    "Monitor",
    "Precision",
    "Predictions",
    "Progress",
    "Recipe",
    "RememberedLogits",
    "Snapshot",
    "Stopped",
    "Trained",
    "Views",
    "choose_precision",
    "churn",
    "distillation_loss",
    "learning_rate_at",
    "predict",
    "recompute_statistics",
    "train",
]
