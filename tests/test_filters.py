"""What items are filtered by: every condition is what Python's own comparison says of the raw values."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.features.filters import Filters, conditions, filter_signature
from schemaflow.schema.sides import sides_of
from schemaflow.schema.sources import Piece

FILTERS = (
    sf.Feature(name="brand", dtype="string", tags=("item", "filter")),
    sf.Feature(name="genres", dtype="string", tags=("item", "filter"), list={}),
    sf.Feature(name="stock", dtype="int8", tags=("item", "filter")),
    sf.Feature(name="stamp", dtype="int64", tags=("item", "filter")),
    sf.Feature(name="sizes", dtype="int32", tags=("item", "filter"), list={}),
    sf.Feature(name="price", dtype="float32", tags=("item", "filter")),
    sf.Feature(name="weight", dtype="float64", tags=("item", "filter")),
)
TYPES = {
    "brand": pa.string(), "genres": pa.list_(pa.string()), "stock": pa.int8(), "stamp": pa.int64(),
    "sizes": pa.list_(pa.int32()), "price": pa.float32(), "weight": pa.float64(),
}  # fmt: skip
BIG = 2**53
WORDS, BYTES, STAMPS = st.sampled_from(["a", "b", "ü", "c d"]), st.integers(-127, 127), st.integers(BIG - 2, BIG + 2)
SIZES = st.integers(-2, 3)
PRICES = st.sampled_from([0.1, 0.3, 9.99, -1.5, 0.1 + 0.2, 1e30])


def missing(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


ITEMS = st.fixed_dictionaries({
    "brand": missing(WORDS), "genres": missing(st.lists(missing(WORDS), max_size=3)), "stock": missing(BYTES),
    "stamp": missing(STAMPS), "sizes": missing(st.lists(missing(SIZES), max_size=3)), "price": missing(PRICES),
    "weight": missing(PRICES),
})  # fmt: skip


def asked(values: st.SearchStrategy[Any], bounded: bool = True) -> st.SearchStrategy[Any]:
    one = values | st.lists(values, min_size=1, max_size=3)
    bounds = st.dictionaries(st.sampled_from([">", ">=", "<", "<="]), values, min_size=1)
    return one | bounds if bounded else one


WHERE = st.fixed_dictionaries({}, optional={
    "brand": asked(WORDS | st.just("?"), bounded=False), "genres": asked(WORDS, bounded=False), "stock": asked(BYTES),
    "stamp": asked(STAMPS), "sizes": asked(SIZES), "price": asked(PRICES), "weight": asked(PRICES),
})  # fmt: skip


def filters_of(items: list[dict[str, Any]]) -> Filters:
    columns = {name: pa.array([it[name] for it in items], kind) for name, kind in TYPES.items()}
    return Filters(FILTERS, Piece(pa.table(columns), "items.parquet"))


def fulfils(item: dict[str, Any], where: dict[str, Any]) -> bool:
    """Compare in Python; a price is what float32 makes of it."""
    compare = {">": "__gt__", ">=": "__ge__", "<": "__lt__", "<=": "__le__"}
    for name, condition in where.items():
        exact = np.float32 if name == "price" else lambda it: it
        values = item[name] if isinstance(item[name], list) else [item[name]]
        values = [exact(it) for it in values if it is not None]
        if isinstance(condition, dict):
            bounds = [(compare[by], exact(it)) for by, it in condition.items()]
            fits = [all(getattr(it, by)(bound) for by, bound in bounds) for it in values]
        else:
            one_of = [exact(it) for it in (condition if isinstance(condition, list) else [condition])]
            fits = [it in one_of for it in values]
        if not any(fits):
            return False
    return True


@given(st.lists(ITEMS, min_size=1, max_size=6), WHERE)
def test_conditions_are_pythons_own_comparisons(items: list[dict[str, Any]], where: dict[str, Any]) -> None:
    filters, inputs = filters_of(items), conditions(FILTERS, where)
    assert filters.mask(inputs).numpy().tolist() == [fulfils(it, where) for it in items]
    assert bool(filters.restricts(inputs)) == bool(where)


NOTHING: dict[str, Any] = dict.fromkeys(TYPES)


def found(column: str, values: list[Any], condition: Any) -> list[Any]:
    items = [NOTHING | {column: it} for it in values]
    mask = filters_of(items).mask(conditions(FILTERS, {column: condition})).numpy()
    return [it for it, may in zip(values, mask, strict=True) if may]


@pytest.mark.parametrize(
    ("column", "values", "condition", "expected"),
    [
        ("stamp", [BIG, BIG + 1, BIG + 2], BIG + 1, [BIG + 1]),  # float64 holds no BIG + 1
        ("stamp", [BIG, BIG + 1], {">": BIG}, [BIG + 1]),
        ("stamp", [2**63 - 1, None, 1 - 2**63], {"<=": 2**63 - 1}, [2**63 - 1, 1 - 2**63]),  # what is missing stays out
        ("stamp", [2**63 - 1], {">": 2**63 - 1}, []),
        ("stock", [127, None], {"<=": 127}, [127]),
        ("stock", [127, -127], {">": 126, "<": 127}, []),
        ("stock", [1, 0, None], True, [1]),
        ("weight", [0.3, 0.1 + 0.2], 0.3, [0.3]),  # float64 tells them apart
        ("weight", [0.3, 0.1 + 0.2], {">": 0.3}, [0.1 + 0.2]),
        ("price", [0.3, 9.99], 9.99, [9.99]),  # compared as float32, which both are
        ("price", [9.99, 9.98], {"<": 9.99}, [9.98]),
        ("price", [3.4e38, None], {"<=": 3.4e38}, [3.4e38]),
        ("genres", [["a", "b"], [], None, ["b"], [None, "a"]], ["a", "z"], [["a", "b"], [None, "a"]]),
        ("sizes", [[1, 9], [4, None], []], {">": 4}, [[1, 9]]),
        ("sizes", [[1, 9]], {">": 1, "<": 9}, []),  # of one value, not of two
        ("brand", [None, "", "x"], ["x"], ["x"]),
        ("brand", [None, None], "x", []),
    ],
)  # fmt: skip
def test_by_hand(column: str, values: list[Any], condition: Any, expected: list[Any]) -> None:
    assert found(column, values, condition) == expected


def test_raw_inputs_of_a_signature_hold_what_no_item_has() -> None:
    filters = filters_of([NOTHING, NOTHING | {"weight": 1.0, "stamp": 5, "brand": "a"}])
    nothing = conditions(FILTERS, None)
    assert set(nothing) == set(filter_signature(FILTERS))
    assert not filters.restricts(nothing)
    least = np.iinfo(np.int64).min
    for change in (
        {"where_weight": tf.constant([np.nan], tf.float64)},
        {"where_weight_min": tf.constant(np.nan, tf.float64)},
        {"where_weight_max": tf.constant(np.nan, tf.float64)},
        {"where_brand": tf.constant([""])},
        {"where_stamp": tf.constant([least])},
        {"where_stamp": tf.constant([5], tf.int64), "where_stamp_min": tf.constant(6, tf.int64)},
    ):
        assert filters.mask(nothing | change).numpy().tolist() == [False, False]
    open_below = nothing | {"where_stamp_max": tf.constant(5, tf.int64)}
    assert filters.mask(open_below).numpy().tolist() == [False, True]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"brnd": "a"}, r'no filter "brnd"; did you mean "brand"\? \(items are filtered by brand, genres, stock'),
        ({"brand": {">=": "a"}}, 'feature "brand": a string has no bounds; expected a value, or a list'),
        ({"stamp": {"=>": 3}}, "feature \"stamp\": received '=>'; expected bounds by >, >=, <, <=, a value"),
        ({"stamp": {}}, 'feature "stamp": received no operator'),
        ({"stamp": []}, 'feature "stamp": the list of values is empty'),
        ({"stamp": "7"}, "feature \"stamp\": expected int64, received '7'"),
        ({"stamp": 7.0}, "expected int64, received 7.0"),
        ({"stamp": None}, "received None; an item without a value cannot be asked for"),
        ({"stock": 128}, "expected int8, received 128"),
        ({"stock": -128}, "which stands for a missing value"),
        ({"stock": {"<": [3]}}, r"expected int8, received \[3\]"),
        ({"brand": 3}, "expected string, received 3"),
        ({"brand": ["a", ""]}, "which stands for a missing value"),
        ({"price": 1e39}, "expected a finite number"),
        ({"price": float("nan")}, "expected a finite number"),
        ({"price": True}, "expected float32, received True"),
        ([("stamp", 3)], "expected a dict by feature"),
    ],
)  # fmt: skip
def test_wrong_conditions_are_named(where: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        conditions(FILTERS, where)


def test_all_mistakes_are_told_at_once_and_without_filters_what_to_do() -> None:
    with pytest.raises(ConfigError) as raised:
        conditions(FILTERS, {"what": 1, "stamp": "x", "brand": 2})
    assert len(raised.value.problems) == 3
    with pytest.raises(ConfigError, match="the schema tags no item feature filter"):
        conditions((), {"genres": "a"})


def test_columns_that_cannot_be_filtered_by() -> None:
    price, stamp = FILTERS[5:6], FILTERS[3:4]
    for features, table, message in [
        (price, {"price": [1.0, float("inf")]}, 'row 1: feature "price" is infinite'),
        (price, {"price": [1.0, 1e300]}, 'row 1: feature "price" is infinite'),  # as float32
        (price, {"cost": [1.0]}, 'the column "price" of the filter "price" is missing'),
        (stamp, {"stamp": ["1"]}, "holds string, feature \"stamp\" expects int64"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=message):
            Filters(features, Piece(pa.table(table), "items.parquet"))


def test_a_filter_alone_stays_out_of_the_towers() -> None:
    features = (
        sf.Feature(name="user", dtype="int32", tags=("user", "id"), cardinality=9),
        sf.Feature(name="item", dtype="int32", tags=("item", "id"), cardinality=9),
        sf.Feature(name="brand", dtype="string", tags=("item", "filter")),
        sf.Feature(name="year", dtype="int32", tags=("item", "filter", "continuous")),
        sf.Feature(name="colour", dtype="string", tags=("item", "filter", "categorical"), vocabulary=("red",)),
        sf.Feature(name="released", dtype="int64", tags=("item", "filter"), time={"unit": "s"}),
    )
    sides = sides_of(features)
    assert [it.name for it in sides.item] == ["item", "year", "colour"]
    assert [it.name for it in sides.filters] == ["brand", "year", "colour", "released"]
    clash = (*features, sf.Feature(name="year_min", dtype="int32", tags=("item", "filter")))
    with pytest.raises(SchemaError, match=r'"year" and "year_min" are both filters, .* where_year_min; rename one'):
        sides_of(clash)
    events = {"user": [1, 2], "item": [1, 2], "year": [1990, 1991], "colour": ["red", "red"]}
    filtered = {"brand": ["x", None], "released": pa.array([None, 5], pa.timestamp("s"))}
    found = sf.Schema(features).check(events | filtered).found
    assert not [it for it in found if it.level == "error"]  # a missing one is no mistake


@pytest.mark.parametrize(
    ("dtype", "values", "fill", "fitting", "other"),
    [
        ("string", ["red", None, ""], "red", "red", "blue"),
        ("int32", [3, None, -(2**31)], 3, {">=": 0}, {">": 3}),
        ("float32", [1.5, None, float("nan")], 1.5, {"<": 2}, 0.0),
    ],
)
def test_what_stands_in_for_a_missing_value_is_not_the_items(
    dtype: str, values: list[Any], fill: Any, fitting: Any, other: Any
) -> None:
    kind = {"tags": ["item", "categorical", "filter"], "vocabulary": ["red"]}
    kind = kind if dtype == "string" else {"tags": ["item", "continuous", "filter"]}
    asked = sf.Feature.model_validate({"name": "it", "dtype": dtype, "missing": {"value": fill}, **kind})
    filters = Filters([asked], Piece(pa.table({"it": values}), "items"))
    for where, expected in ((fitting, [True, False, False]), (other, [False] * 3), ([fill], [True, False, False])):
        assert filters.mask(conditions([asked], {"it": where})).numpy().tolist() == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_above_and_below_zero_leave_zero_out(dtype: str) -> None:
    """TensorFlow takes the numbers next to 0 for 0."""
    price = sf.Feature.model_validate({"name": "price", "dtype": dtype, "tags": ["item", "filter"]})
    filters = Filters([price], Piece(pa.table({"price": [0.0, -0.0, 1.0, -1.0, 1e-30]}), "items"))
    for where, expected in (({">": 0}, [2, 4]), ({"<": 0}, [3]), ({">=": 0}, [0, 1, 2, 4]), ({"<=": 0}, [0, 1, 3])):
        found = filters.mask(conditions([price], {"price": where})).numpy()
        assert np.flatnonzero(found).tolist() == expected
