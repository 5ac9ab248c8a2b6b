"""What a schema learns from data: vocabularies, statistics, counts of ids; and how that is kept as files."""

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemaflow.errors import SchemaError
from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import Feature
from schemaflow.schema.options import Quantiles, TextOptions
from schemaflow.schema.tags import Tags

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["Fitted", "Statistics", "first_values", "learned_under", "unscalable"]

_VOCABULARY = "vocabulary."
_COUNTS = "counts."
_VECTORS = "vectors."
_STATISTICS = "statistics.json"
_UNDER = "learned_under.json"


@dataclass(frozen=True)
class Statistics:
    """What numbers are like, in their own unit; those taken from moments are ages in days.

    Args:
        mean: Of all rows.
        std: Their standard deviation.
        minimum: The least.
        maximum: The largest.
        edges: The quantiles between buckets, where the feature asks for them.
        newest: The moment that ages count from, in the feature's unit of time.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    edges: tuple[float, ...] = ()
    newest: int = 0


@dataclass(frozen=True)
class Fitted:
    """What `Schema.fit` learned.

    Args:
        vocabularies: Per domain, the values in the order of their rows (large_string or int64, the first is row 3).
        statistics: Per feature that learns from its numbers: normalised, in quantiles, filled with the mean, an age.
        counts: Per id, the interactions that hold each row of its table, int64; without those that no interactions were
            seen of.
    """

    vocabularies: Mapping[str, "pa.Array"] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    counts: Mapping[str, "npt.NDArray[Any]"] = field(default_factory=dict)
    vectors: Mapping[str, "npt.NDArray[Any]"] = field(default_factory=dict)
    under: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the SHA-256 of all that was learned, in hexadecimal: of the values, whichever library writes them."""
        import numpy as np

        parts = [json.dumps({name: asdict(it) for name, it in sorted(self.statistics.items())})]
        for domain, values in sorted(self.vocabularies.items()):
            parts.append(json.dumps([_VOCABULARY, domain, values.to_pylist()]))
        for kind, arrays in ((_COUNTS, self.counts), (_VECTORS, self.vectors)):
            for name, array in sorted(arrays.items()):
                content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
                parts.append(json.dumps([kind, name, str(array.dtype), array.shape, content]))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def files(self) -> dict[str, bytes]:
        """Return the contents of the files that hold it, by name."""
        files = {
            f"{_VOCABULARY}{domain}.parquet": _to_parquet("value", values)
            for domain, values in self.vocabularies.items()
        }
        files |= {f"{_COUNTS}{domain}.parquet": _to_parquet("count", counts) for domain, counts in self.counts.items()}
        files |= {f"{_VECTORS}{domain}.parquet": _to_parquet("vector", list(it)) for domain, it in self.vectors.items()}
        if self.statistics:
            statistics = {name: asdict(it) for name, it in self.statistics.items()}
            files[_STATISTICS] = json.dumps(statistics, indent=1).encode()
        if self.under:
            files[_UNDER] = json.dumps(dict(self.under), indent=1).encode()
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "Fitted":
        """Read what `files` gave."""
        vocabularies, counts, vectors = (
            {
                name.removeprefix(kind).removesuffix(".parquet"): _from_parquet(content)
                for name, content in files.items()
                if name.startswith(kind)
            }
            for kind in (_VOCABULARY, _COUNTS, _VECTORS)
        )
        statistics = {
            name: Statistics(**{**it, "edges": tuple(it["edges"])})
            for name, it in json.loads(files.get(_STATISTICS, b"{}")).items()
        }
        return cls(
            vocabularies,
            statistics,
            {domain: column.to_numpy() for domain, column in counts.items()},
            {domain: column.flatten().to_numpy().reshape(len(column), -1) for domain, column in vectors.items()},
            json.loads(files.get(_UNDER, b"{}")),
        )

    def write(self, folder: Path) -> None:
        """Write the files into a folder, in place of those that an earlier fit left there."""
        folder.mkdir(parents=True, exist_ok=True)
        files = self.files()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        for old in folder.iterdir():
            if old.name not in files and (
                old.name.startswith((_VOCABULARY, _COUNTS, _VECTORS)) or old.name in (_STATISTICS, _UNDER)
            ):
                old.unlink()

    @classmethod
    def read(cls, folder: Path) -> "Fitted":
        """Read a folder that `write` filled.

        Raises:
            SchemaError: There is no such folder, or a file of it is damaged.
        """
        if not folder.is_dir():
            raise SchemaError(
                f'{folder}: there is no such folder of vocabularies; restore it, or remove "fitted" from the schema and fit it again'
            )
        try:
            return cls.from_files({file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()})
        except (ValueError, OSError, KeyError, TypeError) as reason:  # pyarrow's and json's errors are ValueErrors
            raise SchemaError(
                f"{folder}: the vocabularies cannot be read ({' '.join(str(reason).split())}); fit the schema again"
            ) from None

    def to_config(self) -> dict[str, str]:
        """Return the files as text, for a model's JSON config."""
        return {name: base64.b64encode(content).decode() for name, content in self.files().items()}

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> "Fitted":
        """Read what `to_config` gave."""
        return cls.from_files({name: base64.b64decode(content) for name, content in config.items()})


def unscalable(feature: Feature, statistics: Statistics) -> str | None:
    """Say why numbers with these statistics cannot be normalised as a feature wants, or nothing when they can."""
    if feature.kind != "continuous" or feature.normalize not in ("standard", "min-max"):
        return None
    scale = statistics.std if feature.normalize == "standard" else statistics.maximum - statistics.minimum
    if scale > 0 and math.isfinite(1 / scale):
        return None
    held = f"is {statistics.mean:g} in every row" if scale == 0 else "hardly differs from row to row"
    return f'feature "{feature.name}" {held}, so it cannot be normalised; remove it or "normalize"'


def learned_under(features: Sequence[Feature], domains: Mapping[str, Domain]) -> dict[str, str]:
    """Return what the schema says of all that is learned: by feature its numbers, by domain the layout of its rows.

    What was learned under other words is not what these words mean.
    """
    said: dict[str, str] = {}
    for feature in features:
        if feature.learns_statistics:
            said[f"numbers of {feature.name}"] = _shortly(_of_numbers(feature))
        if feature.text_like:
            said[f"tokens of {feature.name}"] = _shortly((feature.text or TextOptions()).model_dump())
    for name, domain in domains.items():
        kind = "inline" if domain.values is not None else "learned" if domain.file is None else domain.file.file
        keys: dict[str, Any] = {"encoding": domain.encoding}
        if domain.encoding == "vocabulary":
            keys |= {"vocabulary": kind, "oov": domain.oov_rows}
        if domain.encoding == "hash":
            keys |= {"hash": domain.buckets}
        said[f"rows of {name}"] = _shortly(keys)
        if domain.values is not None and any(it.has(Tags.ID) for it in domain.features):  # rows are counted by them
            said[f"values of {name}"] = first_values(domain, len(domain.values))
        if domain.pretrained is not None:
            said[f"vectors of {name}"] = _shortly(domain.pretrained.model_dump(exclude={"file"}))
    return said


def first_values(domain: Domain, count: int) -> str:
    """Return a text that stands for the first values of a vocabulary that the schema spells out."""
    values = (domain.values or ())[:count]
    return f"{len(values)} values, sha256: {hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]}"


def _of_numbers(feature: Feature) -> dict[str, Any]:
    keys: dict[str, Any] = {"time": None if feature.time is None else feature.time.model_dump(mode="json")}
    if isinstance(feature.buckets, Quantiles):  # whose edges are values as the dtype rounds them
        keys |= {"quantiles": feature.buckets.quantiles, "dtype": feature.dtype}
    if not feature.is_age and isinstance(feature.stand_in, (int, float)):
        keys["stand_in"] = float(feature.stand_in)
    return keys


def _shortly(keys: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{key}: {json.dumps(value)}" for key, value in keys.items() if value is not None) or "as it stands"
    )


def _to_parquet(name: str, values: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({name: values}), buffer, compression="zstd")
    return buffer.getvalue()


def _from_parquet(content: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # without threads: one that is just starting when a short command ends would abort the process
    column = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False).column(0).combine_chunks()
    return column.cast(pa.large_string()) if pa.types.is_string(column.type) else column
