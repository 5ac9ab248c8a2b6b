"""What the page at `/` must know of a bundle: what a query is made of, and what items can be filtered by."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemaflow.export import Recommender
from schemaflow.schema import Feature, Schema
from schemaflow.serving.bundle import sample

__all__ = ["about"]

CHOICES = 200
"""Of as many values one is picked from a list; of more, it is typed, and these are the first suggestions."""


def about(recommender: Recommender) -> dict[str, Any]:
    """Return a bundle's query features with the values to pick from, and its filters with those that items have."""
    schema = recommender.schema
    return {
        "k": recommender.k,
        "items": len(recommender.items),
        "item_id": recommender.item_id.source,
        "title": _title(recommender.items.slice(0, 10_000), recommender.item_id),
        "features": [_asked(schema, it) for it in recommender.features],
        "filters": [_filter(it, recommender.items.column(it.source)) for it in recommender.filters],
    }


def _title(items: pa.Table, item_id: Feature) -> str | None:
    """Return the column that tells items apart best to a reader: the text with the most values, other than the id."""
    texts = [
        it.name
        for it in items.schema
        if it.name != item_id.source and (pa.types.is_string(it.type) or pa.types.is_large_string(it.type))
    ]
    distinct = {name: len(pc.unique(items.column(name))) for name in texts}
    return max(distinct, key=lambda name: distinct[name], default=None)


def _asked(schema: Schema, feature: Feature) -> dict[str, Any]:
    values = schema.vocabulary(feature.table) if feature.kind == "categorical" and not feature.text_like else None
    optional = feature.many or schema.takes_missing(feature)
    return _described(feature) | _choices(values) | {"optional": optional, "start": _start(schema, feature, values)}


def _start(schema: Schema, feature: Feature, values: pa.Array | None) -> Any:
    """Return what the page asks for first: the first value there is, the mean of a number; None where it may be missing."""
    if feature.many:
        return None
    if values is not None and len(values):
        return values[0].as_py()
    statistics = schema.fitted.statistics.get(feature.name)
    if statistics is not None and not feature.is_age:
        return statistics.mean if feature.dtype.startswith("float") else round(statistics.mean)
    return sample(schema, feature)


def _filter(feature: Feature, column: pa.ChunkedArray) -> dict[str, Any]:
    values = column.combine_chunks()
    if feature.list is not None:
        values = pc.list_flatten(values)
    if feature.dtype == "string":
        return _described(feature) | _choices(pc.unique(values.drop_null()).sort())
    ends = pc.min_max(values, skip_nulls=True).as_py()
    return _described(feature) | {"least": ends["min"], "most": ends["max"], "choices": [], "all": False}


def _described(feature: Feature) -> dict[str, Any]:
    return {"name": feature.name, "text": feature.dtype == "string", "many": feature.many, "dtype": feature.dtype}


def _choices(values: pa.Array | None) -> dict[str, Any]:
    """Return the first values, and whether these are all."""
    if values is None:
        return {"choices": [], "all": False}
    return {"choices": values[:CHOICES].to_pylist(), "all": len(values) <= CHOICES}
