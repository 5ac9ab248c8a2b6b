"""Files that a schema names beside its tables: vocabularies, and vectors to begin with."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemaflow.errors import DataError, SchemaError
from schemaflow.schema.columns import read_column
from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import Feature
from schemaflow.schema.options import Pretrained, VocabularyFile
from schemaflow.schema.sources import open_source

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["find", "read_vectors", "read_vocabulary"]


def find(file: str, folders: Sequence[Path], purpose: str) -> Path:
    """Return the first of the files of that name.

    Raises:
        DataError: It is in none of the folders.
    """
    tried = list(dict.fromkeys(folder / file for folder in folders))
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise DataError(
            f"{purpose} is to be read from {file}, but there is no {' nor '.join(map(str, tried))}; put it there"
        )
    return found


def read_vocabulary(domain: Domain, spec: VocabularyFile, path: Path) -> "pa.Array":
    """Return the values of a vocabulary's file in its order, large_string or int64.

    Raises:
        DataError: It has several columns and none is named, is empty, or holds a value twice, none, or of another type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    name, dtype = domain.features[0].name, domain.features[0].dtype
    feature = Feature(name=name, dtype=dtype, column=spec.column)
    if path.suffix == ".parquet":
        source = open_source(path)
        if spec.column is None and len(source.columns) != 1:
            raise DataError(
                f'{path}: holds the columns {", ".join(source.columns)}; name the one of the vocabulary of "{name}" with "column"'
            )
        column = spec.column if spec.column is not None else source.columns[0]
        source.require(column, f'the vocabulary of feature "{name}"')
        feature = feature.model_copy(update={"column": column})
    else:
        if spec.column is not None:
            raise DataError(f'{path}: text has no column "{spec.column}"; remove "column", or name a Parquet file')
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as reason:
            raise DataError(f"{path}: expected UTF-8 text, received other bytes at offset {reason.start}") from None
        lines: list[Any] = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []
        if dtype != "string":
            whole = re.compile(r"-?[0-9]{1,18}")
            wrong = next((number for number, line in enumerate(lines) if not whole.fullmatch(line)), None)
            if wrong is not None:
                raise DataError(
                    f'{path}, line {wrong + 1}: expected {dtype} for feature "{name}", received {lines[wrong]!r}'
                )
            lines = [int(line) for line in lines]
        if not lines:
            raise DataError(
                f'{path}: the file is empty; expected the vocabulary of feature "{name}", a value on each line'
            )
        source = open_source({name: pa.array(lines)})
    values = pa.concat_arrays([read_column(feature, piece).values for piece in source.pieces([feature.source])])
    if values.null_count:
        raise DataError(f'{path}: a value of the vocabulary of feature "{name}" is missing or empty; remove it')
    repeated = pc.value_counts(values).filter(pc.greater(pc.value_counts(values).field("counts"), 1))
    if len(repeated):
        raise DataError(
            f'{path}: {repeated.field("values")[0].as_py()!r} stands twice in the vocabulary of feature "{name}"; remove one'
        )
    return values


def read_vectors(domain: Domain, spec: Pretrained, path: Path, vocabulary: "pa.Array | None") -> "npt.NDArray[Any]":
    """Return the vectors that a table's values begin with, [values, dim] float32; the mean where a value has none.

    Args:
        domain: The values.
        spec: The columns.
        path: The file.
        vocabulary: The values in the order of their rows; None where rows are values themselves.

    Raises:
        DataError: A column is missing, a value stands twice, no value has a vector, or they differ in width.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    source, name = open_source(path), domain.features[0].name
    purpose = f'the pretrained vectors of feature "{name}"'
    for column in (spec.key, spec.vector):
        source.require(column, purpose)
    key = Feature(name="key_", dtype=domain.features[0].dtype, column=spec.key)
    dense = pa.types
    values, vectors = [], []
    for piece in source.pieces([spec.key, spec.vector]):
        values.append(read_column(key, piece).values)
        column = piece.table.column(spec.vector).combine_chunks()
        kinds = (dense.is_list, dense.is_large_list, dense.is_fixed_size_list)
        if not any(kind(column.type) for kind in kinds) or not dense.is_floating(column.type.value_type):
            raise DataError(
                f'{piece.where}: the column "{spec.vector}" of {purpose} holds {column.type}; expected lists of floats'
            )
        lengths = pc.list_value_length(column)
        width = pc.max(lengths).as_py() or 0
        if width == 0 or lengths.null_count or pc.min(lengths).as_py() != width:
            raise DataError(
                f'{piece.where}: the lists of the column "{spec.vector}" of {purpose} are not all of one length'
            )
        vectors.append(column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), width))
    if len({it.shape[1] for it in vectors}) > 1:
        raise DataError(f'{path}: the lists of the column "{spec.vector}" of {purpose} are not all of one length')
    keys, matrix = pa.concat_arrays(values), np.concatenate(vectors)
    if not np.isfinite(matrix).all():
        raise DataError(f"{path}: {purpose} hold a number that is missing or infinite; expected finite ones")
    if pc.count_distinct(keys, mode="all").as_py() != len(keys):
        repeated = pc.value_counts(keys).sort(order="descending", by="counts").field("values")[0]
        raise DataError(f"{path}: {repeated.as_py()!r} has several of {purpose}; remove all but one")
    wanted = vocabulary if vocabulary is not None else pa.array(np.arange(domain.rows(None)), pa.int64())
    places = pc.fill_null(pc.index_in(wanted, value_set=keys), -1).to_numpy()
    if not (places >= 0).any():
        raise DataError(
            f'{path}: none of the {len(wanted)} values of feature "{name}" has a vector in "{spec.vector}"; is "{spec.key}" its key?'
        )
    if (asked := {it.embedding.dim for it in domain.features if it.embedding and it.embedding.dim}) - {matrix.shape[1]}:
        raise SchemaError(
            f'feature "{name}" asks for the width {min(asked)}, but {purpose} are {matrix.shape[1]} wide; remove "dim"'
        )
    mean = matrix[places[places >= 0]].mean(axis=0)
    return np.where((places >= 0)[:, None], matrix[places], mean).astype(np.float32)
