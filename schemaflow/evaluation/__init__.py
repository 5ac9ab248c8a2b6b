"""Evaluation over the whole catalogue."""

from schemaflow.evaluation.evaluate import NothingToFindError, evaluate
from schemaflow.evaluation.report import Report

__all__ = ["NothingToFindError", "Report", "evaluate"]
