"""Where the negatives of a batch come from, and how likely each was to come."""

from schemaflow.sampling.candidates import Candidates, sample
from schemaflow.sampling.frequency import StreamingFrequency
from schemaflow.sampling.samplers import (
    Batch,
    CachedCrossBatchSampler,
    Catalogue,
    Drawn,
    InBatchSampler,
    PopularityBasedSampler,
    Sampler,
    UniformSampler,
)

__all__ = [
    "Batch",
    "CachedCrossBatchSampler",
    "Candidates",
    "Catalogue",
    "Drawn",
    "InBatchSampler",
    "PopularityBasedSampler",
    "Sampler",
    "StreamingFrequency",
    "UniformSampler",
    "sample",
]
