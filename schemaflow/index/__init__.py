"""Indices: vectors in, the nearest candidates out, under one protocol."""

from schemaflow.index.base import Index
from schemaflow.index.brute_force import BruteForce
from schemaflow.index.identifiers import Identifiers, padding_identifier

__all__ = ["BruteForce", "Identifiers", "Index", "padding_identifier"]
