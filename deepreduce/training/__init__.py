"""One training loop for teacher and students, distillation, and evaluation."""

from deepreduce.training.batchnorm import recompute_statistics
from deepreduce.training.distillation import Distillation, distillation_loss
from deepreduce.training.evaluate import Predictions, churn, predict
from deepreduce.training.events import EpochEnded, Started, Stepped, TrainingEvent
from deepreduce.training.logits_cache import LogitsCache, Teacher
from deepreduce.training.loop import (
    AugmentationSchedule,
    EpochRecord,
    Monitor,
    Progress,
    Snapshot,
    Stopped,
    Trained,
    train,
)
from deepreduce.training.recipe import PRECISIONS, Precision, Recipe, choose_precision, learning_rate_at
from deepreduce.training.weight_sharing import SharedWeights

__all__ = [
    "PRECISIONS",
    "AugmentationSchedule",
    "Distillation",
    "EpochEnded",
    "EpochRecord",
    "LogitsCache",
    "Monitor",
    "Precision",
    "Predictions",
    "Progress",
    "Recipe",
    "SharedWeights",
    "Snapshot",
    "Started",
    "Stepped",
    "Stopped",
    "Teacher",
    "Trained",
    "TrainingEvent",
    "choose_precision",
    "churn",
    "distillation_loss",
    "learning_rate_at",
    "predict",
    "recompute_statistics",
    "train",
]
