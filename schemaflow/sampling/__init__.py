"""Where the negatives of a batch come from, and how likely each was to come."""

from schemaflow.sampling.frequency import StreamingFrequency
from schemaflow.sampling.samplers import Candidates, InBatchSampler, Sampler

__all__ = ["Candidates", "InBatchSampler", "Sampler", "StreamingFrequency"]
