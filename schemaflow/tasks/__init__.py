"""Prediction tasks: what a model is trained for."""

from schemaflow.tasks.retrieval import RetrievalTask
from schemaflow.tasks.targets import BinaryClassificationTask, RegressionTask

__all__ = ["BinaryClassificationTask", "RegressionTask", "RetrievalTask"]
