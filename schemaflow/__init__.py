"""SchemaFlow: retrieval models from a feature schema.

Names are loaded when they are first used, so that `import schemaflow` costs no TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemaflow import datasets as datasets
    from schemaflow import optimizers as optimizers
    from schemaflow.config import RunConfig as RunConfig
    from schemaflow.data.dataset import read_parquet as read_parquet
    from schemaflow.data.histories import expand_sequences as expand_sequences
    from schemaflow.data.histories import histories as histories
    from schemaflow.errors import SchemaFlowError as SchemaFlowError
    from schemaflow.evaluation import Report as Report
    from schemaflow.evaluation import evaluate as evaluate
    from schemaflow.export import Recommender as Recommender
    from schemaflow.features.tables import EmbeddingOptions as EmbeddingOptions
    from schemaflow.index import IVF as IVF
    from schemaflow.index import BruteForce as BruteForce
    from schemaflow.index import Faiss as Faiss
    from schemaflow.index import ScaNN as ScaNN
    from schemaflow.layers.cross import CrossBlock as CrossBlock
    from schemaflow.layers.embedding import EmbeddingTable as EmbeddingTable
    from schemaflow.layers.history import UserHistoryEncoder as UserHistoryEncoder
    from schemaflow.layers.mlp import MLPBlock as MLPBlock
    from schemaflow.layers.norm import L2Norm as L2Norm
    from schemaflow.models import TwoTowerModel as TwoTowerModel
    from schemaflow.sampling import CachedCrossBatchSampler as CachedCrossBatchSampler
    from schemaflow.sampling import InBatchSampler as InBatchSampler
    from schemaflow.sampling import PopularityBasedSampler as PopularityBasedSampler
    from schemaflow.sampling import StreamingFrequency as StreamingFrequency
    from schemaflow.sampling import UniformSampler as UniformSampler
    from schemaflow.schema import Feature as Feature
    from schemaflow.schema import Schema as Schema
    from schemaflow.schema import Tags as Tags
    from schemaflow.tasks.alignment import RewardAlignmentTask as RewardAlignmentTask
    from schemaflow.tasks.distillation import DistillationTask as DistillationTask
    from schemaflow.tasks.factorized_top_k import FactorizedTopK as FactorizedTopK
    from schemaflow.tasks.light_ranker import LightRanker as LightRanker
    from schemaflow.tasks.mixture_of_logits import MixtureOfLogits as MixtureOfLogits
    from schemaflow.tasks.position_debiasing import PositionDebiasing as PositionDebiasing
    from schemaflow.tasks.retrieval import RetrievalTask as RetrievalTask
    from schemaflow.tasks.scoring import Scorer as Scorer
    from schemaflow.tasks.targets import BinaryClassificationTask as BinaryClassificationTask
    from schemaflow.tasks.targets import RegressionTask as RegressionTask
    from schemaflow.tasks.user_debiasing import UserDebiasing as UserDebiasing

_HOMES = {
    "BinaryClassificationTask": "schemaflow.tasks.targets",
    "BruteForce": "schemaflow.index",
    "CachedCrossBatchSampler": "schemaflow.sampling",
    "CrossBlock": "schemaflow.layers.cross",
    "DistillationTask": "schemaflow.tasks.distillation",
    "EmbeddingOptions": "schemaflow.features.tables",
    "EmbeddingTable": "schemaflow.layers.embedding",
    "FactorizedTopK": "schemaflow.tasks.factorized_top_k",
    "Faiss": "schemaflow.index",
    "Feature": "schemaflow.schema",
    "IVF": "schemaflow.index",
    "InBatchSampler": "schemaflow.sampling",
    "L2Norm": "schemaflow.layers.norm",
    "LightRanker": "schemaflow.tasks.light_ranker",
    "MLPBlock": "schemaflow.layers.mlp",
    "MixtureOfLogits": "schemaflow.tasks.mixture_of_logits",
    "PopularityBasedSampler": "schemaflow.sampling",
    "PositionDebiasing": "schemaflow.tasks.position_debiasing",
    "Recommender": "schemaflow.export",
    "RegressionTask": "schemaflow.tasks.targets",
    "Report": "schemaflow.evaluation",
    "RetrievalTask": "schemaflow.tasks.retrieval",
    "RewardAlignmentTask": "schemaflow.tasks.alignment",
    "RunConfig": "schemaflow.config",
    "ScaNN": "schemaflow.index",
    "Schema": "schemaflow.schema",
    "SchemaFlowError": "schemaflow.errors",
    "Scorer": "schemaflow.tasks.scoring",
    "StreamingFrequency": "schemaflow.sampling",
    "Tags": "schemaflow.schema",
    "TwoTowerModel": "schemaflow.models",
    "UniformSampler": "schemaflow.sampling",
    "UserDebiasing": "schemaflow.tasks.user_debiasing",
    "UserHistoryEncoder": "schemaflow.layers.history",
    "datasets": "schemaflow.datasets",
    "evaluate": "schemaflow.evaluation",
    "expand_sequences": "schemaflow.data.histories",
    "histories": "schemaflow.data.histories",
    "optimizers": "schemaflow.optimizers",
    "read_parquet": "schemaflow.data.dataset",
}

__all__ = [
    "BinaryClassificationTask",
    "BruteForce",
    "CachedCrossBatchSampler",
    "CrossBlock",
    "DistillationTask",
    "EmbeddingOptions",
    "EmbeddingTable",
    "FactorizedTopK",
    "Faiss",
    "Feature",
    "IVF",
    "InBatchSampler",
    "L2Norm",
    "LightRanker",
    "MLPBlock",
    "MixtureOfLogits",
    "PopularityBasedSampler",
    "PositionDebiasing",
    "Recommender",
    "RegressionTask",
    "Report",
    "RetrievalTask",
    "RewardAlignmentTask",
    "RunConfig",
    "ScaNN",
    "Schema",
    "SchemaFlowError",
    "Scorer",
    "StreamingFrequency",
    "Tags",
    "TwoTowerModel",
    "UniformSampler",
    "UserDebiasing",
    "UserHistoryEncoder",
    "datasets",
    "evaluate",
    "expand_sequences",
    "histories",
    "optimizers",
    "read_parquet",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'schemaflow' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    found = home if home.__name__ == f"schemaflow.{name}" else getattr(home, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
