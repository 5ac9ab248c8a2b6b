"""Prediction tasks: what a model is trained for."""

from schemaflow.tasks.admission import bound, refuse_twins
from schemaflow.tasks.alignment import RewardAlignmentTask
from schemaflow.tasks.distillation import DistillationTask
from schemaflow.tasks.factorized_top_k import FactorizedTopK
from schemaflow.tasks.light_ranker import LightRanker
from schemaflow.tasks.mixture_of_logits import MixtureOfLogits
from schemaflow.tasks.position_debiasing import PositionDebiasing
from schemaflow.tasks.ranker import Ranker
from schemaflow.tasks.retrieval import RetrievalTask
from schemaflow.tasks.scoring import Scorer
from schemaflow.tasks.targets import BinaryClassificationTask, RegressionTask
from schemaflow.tasks.terms import Debiasing, Step, Task
from schemaflow.tasks.user_debiasing import UserDebiasing

__all__ = [
    "BinaryClassificationTask",
    "Debiasing",
    "DistillationTask",
    "FactorizedTopK",
    "LightRanker",
    "MixtureOfLogits",
    "PositionDebiasing",
    "Ranker",
    "RegressionTask",
    "RetrievalTask",
    "RewardAlignmentTask",
    "Scorer",
    "Step",
    "Task",
    "UserDebiasing",
    "bound",
    "refuse_twins",
]
