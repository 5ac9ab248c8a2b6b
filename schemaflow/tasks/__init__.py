"""Prediction tasks: what a model is trained for."""

from schemaflow.tasks.factorized_top_k import FactorizedTopK
from schemaflow.tasks.retrieval import RetrievalTask

__all__ = ["FactorizedTopK", "RetrievalTask"]
