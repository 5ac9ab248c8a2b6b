"""Data to try things on: generated, with a structure that a model should find, or with a truth that it is judged by."""

from schemaflow.datasets.folder import DataFolder
from schemaflow.datasets.generated import synthetic
from schemaflow.datasets.sequences import SequenceFolder, sequences
from schemaflow.datasets.simulated import Choices, Simulation, Slates, simulate

__all__ = ["Choices", "DataFolder", "SequenceFolder", "Simulation", "Slates", "sequences", "simulate", "synthetic"]
