"""Bundles: a served recommender as a directory, written and read back."""

from schemaflow.export.bundle import check_target
from schemaflow.export.recommender import Recommendations, Recommender, export

__all__ = ["Recommendations", "Recommender", "check_target", "export"]
