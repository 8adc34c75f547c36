"""Training: the objective, the trainer that computes it, and the whole run from a recipe to a saved adapter."""

from balora.train.callbacks import Progress, progress_bar
from balora.train.engine import EagerEngine, Engine, Rows
from balora.train.objective import Losses, Objective, StepPart
from balora.train.run import TrainResult, train
from balora.train.setup import BALoraConfig
from balora.train.trainer import BALoraMixin, BALoraTrainer

__all__ = [
    "BALoraConfig",
    "BALoraMixin",
    "BALoraTrainer",
    "EagerEngine",
    "Engine",
    "Losses",
    "Objective",
    "Progress",
    "Rows",
    "StepPart",
    "TrainResult",
    "progress_bar",
    "train",
]
