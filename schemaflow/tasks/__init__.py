"""Prediction tasks: what a model is trained for."""

from schemaflow.tasks.alignment import RewardAlignmentTask
from schemaflow.tasks.distillation import DistillationTask
from schemaflow.tasks.factorized_top_k import FactorizedTopK
from schemaflow.tasks.ranker import LightRanker, MixtureOfLogits, Ranker
from schemaflow.tasks.retrieval import RetrievalTask
from schemaflow.tasks.scoring import Scorer
from schemaflow.tasks.targets import BinaryClassificationTask, RegressionTask
from schemaflow.tasks.terms import Debiasing, Step, Task, bound, refuse_twins

__all__ = [
    "BinaryClassificationTask",
    "Debiasing",
    "DistillationTask",
    "FactorizedTopK",
    "LightRanker",
    "MixtureOfLogits",
    "Ranker",
    "RegressionTask",
    "RetrievalTask",
    "RewardAlignmentTask",
    "Scorer",
    "Step",
    "Task",
    "bound",
    "refuse_twins",
]
