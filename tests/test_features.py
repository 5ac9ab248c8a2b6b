"""Embedding widths, sharing and options: the derived tables."""

import keras
import pytest

import schemaflow as sf
from schemaflow.errors import ConfigError, SchemaError
from schemaflow.features.encoders import build_tables, options_config, options_from_config
from schemaflow.features.tables import describe_tables, inferred_dim, table_specs


def feature(name: str, cardinality: int = 1001, **spec: object) -> sf.Feature:
    return sf.Feature.model_validate(
        {"name": name, "dtype": "int64", "tags": ["item", "categorical"], "cardinality": cardinality, **spec}
    )


# Merlin's own checks of its rule, and those worked by hand in the design
@pytest.mark.parametrize(
    ("rows", "multiplier", "plain", "rounded"),
    [(1001, 2.0, 12, 16), (101, 3.0, 10, 16), (71, 3.0, 9, 16), (1, 2.0, 2, 8), (16, 4.0, 8, 8)],
)
def test_inferred_widths(rows: int, multiplier: float, plain: int, rounded: int) -> None:
    assert inferred_dim(rows, multiplier) == plain
    assert inferred_dim(rows, multiplier, multiple_of_8=True) == rounded


def dims(schema: sf.Schema, **options: object) -> dict[str, int]:
    return {name: spec.dim for name, spec in table_specs(schema, sf.EmbeddingOptions(**options)).items()}  # type: ignore[arg-type]


def test_the_first_that_says_a_width_wins() -> None:
    schema = sf.Schema((feature("a"), feature("b", embedding={"dim": 5}), feature("c")))
    assert dims(schema) == {"a": 64, "b": 5, "c": 64}
    assert dims(schema, embedding_dim_default=7) == {"a": 7, "b": 5, "c": 7}
    assert dims(schema, infer_embedding_sizes=True) == {"a": 12, "b": 5, "c": 12}
    rounded = {"infer_embedding_sizes": True, "infer_embeddings_ensure_dim_multiple_of_8": True}
    assert dims(schema, infer_embedding_sizes_multiplier=3.0, **rounded) == {"a": 24, "b": 5, "c": 24}
    assert dims(schema, embedding_dims={"b": 3, "c": 9}) == {"a": 64, "b": 3, "c": 9}


def test_features_of_a_domain_share_one_table_and_width() -> None:
    shared = sf.Schema((feature("a", domain="d"), feature("b", domain="d", embedding={"dim": 6})))
    (spec,) = table_specs(shared).values()
    assert (spec.features, spec.dim, spec.parameters) == (("a", "b"), 6, 6006)
    with pytest.raises(SchemaError, match=r"widths \[5, 6\]"):
        sf.Schema((feature("a", domain="d", embedding={"dim": 5}), feature("b", domain="d", embedding={"dim": 6})))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dims": {"aa": 3}}, 'name "aa", which is no categorical feature; did you mean "a"'),
        ({"embeddings_initializers": {"z": "ones"}}, 'name "z", which is no categorical feature'),
        ({"embedding_dims": {"a": 0}}, r'embedding_dims\["a"\] is 0'),
        ({"embedding_dim_default": 2.5}, "embedding_dim_default is 2.5"),
        ({"infer_embedding_sizes_multiplier": 0.0}, "expected a number above 0"),
        ({"embeddings_l2_reg": -1.0}, "expected 0 or more"),
        ({"combiner": "average"}, 'unknown combiner "average"'),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dims(sf.Schema((feature("a"),)), **options)


def test_initializers_for_all_or_by_feature_never_start_two_tables_alike() -> None:
    schema = sf.Schema((feature("a"), feature("b"), feature("c", domain="d"), feature("e", domain="d")))
    seeded = keras.initializers.RandomNormal(seed=5)
    for wanted in (None, "uniform", seeded):
        tables = build_tables(schema, sf.EmbeddingOptions(embedding_dim_default=4, embeddings_initializers=wanted))
        values = [table.embeddings.numpy() for table in tables.values()]
        assert not any((values[i] == values[j]).all(axis=1).any() for i in range(3) for j in range(i))
    by_feature = sf.EmbeddingOptions(embedding_dim_default=4, embeddings_initializers={"b": "ones", "e": "zeros"})
    tables = build_tables(schema, by_feature)
    assert (tables["b"].embeddings.numpy() == 1).all()
    assert (tables["d"].embeddings.numpy() == 0).all()
    assert tables["a"].embeddings.numpy().std() == pytest.approx(0.044, abs=0.005)  # normal 0.05, cut at two deviations
    with pytest.raises(ConfigError, match='name c and e, which share the table "d"'):
        build_tables(schema, sf.EmbeddingOptions(embeddings_initializers={"c": "ones", "e": "ones"}))


def test_options_survive_their_config() -> None:
    for wanted in (None, "ones", keras.initializers.RandomNormal(stddev=0.5), {"a": keras.initializers.Ones()}):
        options = sf.EmbeddingOptions({"a": 3}, 8, True, 3.0, True, wanted, 0.25, "max")
        again = options_config(options_from_config(options_config(options)))
        assert again == options_config(options)
        assert (again["embedding_dims"], again["combiner"]) == ({"a": 3}, "max")


def test_the_description_lists_every_table() -> None:
    schema = sf.Schema.from_yaml("schemas/movielens_100k.yaml")
    lines = describe_tables(table_specs(schema).values()).splitlines()
    assert lines[0].split() == ["feature", "rows", "dim", "domain", "parameters"]
    assert ["movie_id", "1,685", "64", "movie", "107,840"] in [line.split() for line in lines]
    assert ["genres", "22", "16", "genres", "352"] in [line.split() for line in lines]
    total = sum(spec.parameters for spec in table_specs(schema).values())
    assert lines[-1].split() == ["total", f"{total:,}"]
