"""What the tests share: one small generated data folder, one trained model, fixed seeds."""

import gc
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

import schemaflow as sf

gc.set_threshold(50_000, 20, 20)  # TensorFlow's graphs are many objects, gone through in vain every 700 new ones

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("fixed")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, or a skip that says how to get the tests."""
    folder = Path(os.environ.get("SCHEMAFLOW_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "ml-100k" / "interactions.parquet").exists():
        pytest.skip("MovieLens-100k may not be redistributed: put it at $SCHEMAFLOW_DATA/ml-100k")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> sf.datasets.DataFolder:
    return sf.datasets.synthetic(tmp_path_factory.mktemp("synthetic"), users=120, items=60, interactions=3000, seed=7)


@pytest.fixture(scope="session")
def schema(data: sf.datasets.DataFolder) -> sf.Schema:
    return sf.Schema.from_yaml(data.schema).fit(data.interactions)


@pytest.fixture(scope="session")
def trained(data: sf.datasets.DataFolder, schema: sf.Schema) -> sf.TwoTowerModel:
    import keras

    keras.utils.set_random_seed(1)
    model = sf.TwoTowerModel(
        schema, sf.MLPBlock([16, 8]), embedding_options=sf.EmbeddingOptions(embedding_dim_default=8)
    )
    model.compile(optimizer="adam")
    model.fit(data.interactions, batch_size=128, epochs=2, verbose=0)
    return model
