"""Evaluation over the whole catalogue."""

from schemaflow.evaluation.evaluate import evaluate
from schemaflow.evaluation.report import Report

__all__ = ["Report", "evaluate"]
