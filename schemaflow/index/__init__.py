"""Indices: vectors in, the nearest candidates out, under one protocol."""

from schemaflow.index.base import Index
from schemaflow.index.brute_force import BruteForce
from schemaflow.index.faiss import Faiss
from schemaflow.index.identifiers import Identifiers, padding_identifier
from schemaflow.index.ivf import IVF
from schemaflow.index.scann import ScaNN

__all__ = ["IVF", "BruteForce", "Faiss", "Identifiers", "Index", "ScaNN", "padding_identifier"]
