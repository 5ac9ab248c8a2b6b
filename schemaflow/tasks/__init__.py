"""Prediction tasks: what a model is trained for."""

from schemaflow.tasks.factorized_top_k import FactorizedTopK
from schemaflow.tasks.retrieval import RetrievalTask
from schemaflow.tasks.targets import BinaryClassificationTask, RegressionTask, TargetTask, refuse_twins

__all__ = [
    "BinaryClassificationTask",
    "FactorizedTopK",
    "RegressionTask",
    "RetrievalTask",
    "TargetTask",
    "refuse_twins",
]
