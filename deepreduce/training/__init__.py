"""One training loop for teacher and students, distillation, callbacks and evaluation."""

from deepreduce.training.augmentation import AugmentationSchedule
from deepreduce.training.batchnorm import recompute_statistics
from deepreduce.training.callbacks import (
    CallbackFactory,
    LearnerFactory,
    PlanLearner,
    PreparedStudent,
    TrainingCallback,
    TrainingState,
)
from deepreduce.training.distillation import Distillation, distillation_loss
from deepreduce.training.evaluate import Predictions, churn, predict
from deepreduce.training.events import (
    EpochEnded,
    EpochRecord,
    Progress,
    Snapshot,
    Started,
    Stepped,
    Stopped,
    TrainingEvent,
)
from deepreduce.training.logits_cache import LogitsCache, Teacher
from deepreduce.training.loop import TrainingSummary, train
from deepreduce.training.recipe import (
    PRECISIONS,
    Precision,
    Recipe,
    RecipeChanges,
    choose_precision,
    learning_rate_at,
)

__all__ = [
    "PRECISIONS",
    "AugmentationSchedule",
    "CallbackFactory",
    "Distillation",
    "EpochEnded",
    "EpochRecord",
    "LearnerFactory",
    "LogitsCache",
    "PlanLearner",
    "Precision",
    "Predictions",
    "PreparedStudent",
    "Progress",
    "Recipe",
    "RecipeChanges",
    "Snapshot",
    "Started",
    "Stepped",
    "Stopped",
    "Teacher",
    "TrainingCallback",
    "TrainingEvent",
    "TrainingState",
    "TrainingSummary",
    "choose_precision",
    "churn",
    "distillation_loss",
    "learning_rate_at",
    "predict",
    "recompute_statistics",
    "train",
]
