"""Bundles: a served recommender as a directory, written and read back."""

from schemaflow.export.bundle import check_target, export
from schemaflow.export.recommender import Recommendations, Recommender

__all__ = ["Recommendations", "Recommender", "check_target", "export"]
