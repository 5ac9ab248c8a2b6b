"""Prediction tasks: what a model is trained for."""

from schemaflow.tasks.retrieval import RetrievalTask

__all__ = ["RetrievalTask"]
