"""Keras layers: plain tensors in and out, ignorant of the schema."""

from schemaflow.layers.cross import CrossBlock
from schemaflow.layers.embedding import EmbeddingTable
from schemaflow.layers.mlp import MLPBlock
from schemaflow.layers.norm import L2Norm

__all__ = ["CrossBlock", "EmbeddingTable", "L2Norm", "MLPBlock"]
