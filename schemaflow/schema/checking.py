"""Check tables against a schema: all that training would refuse, and what it takes but may not be meant."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from schemaflow.errors import DataError, SchemaError, SchemaFlowError
from schemaflow.schema.columns import Column, read_column
from schemaflow.schema.counting import Counter
from schemaflow.schema.domain import Domain
from schemaflow.schema.faults import Fault, beyond, fault, faults_of, without_log1p
from schemaflow.schema.feature import Feature
from schemaflow.schema.findings import Finding, Findings
from schemaflow.schema.fitting import Numbers, vectors_of, vocabulary_of
from schemaflow.schema.numbers import normalized, numbers_of
from schemaflow.schema.plan import Plan, Table
from schemaflow.schema.sides import Sides, sides_of, tower_tags
from schemaflow.schema.sources import Piece, TableLike
from schemaflow.schema.tags import Tags

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from schemaflow.schema.schema import Schema

__all__ = ["check"]

BARELY = 0.1
"""Features of one domain that share fewer of their values than this are hardly of one domain."""

UNKNOWN, ABSENT = "out-of-vocabulary", "absent-id"


def check(schema: "Schema", interactions: TableLike, folder: Path | None) -> Findings:
    """Return what is wrong with tables, by one pass over each.

    In memory are, beside some row groups at a time, the distinct values of ids and of vocabularies to be learned, and of
    side tables their ids and the lengths of weighted lists.

    Args:
        schema: Says what the tables should hold.
        interactions: One row for each interaction.
        folder: Where the side tables are; the folder of the interactions if None.
    """
    found: list[Finding] = []
    sides: Sides | None = None
    try:
        sides = sides_of(schema)
    except SchemaError as reason:
        found += [Finding("error", "sides", problem) for problem in reason.problems]
    plan = Plan(schema, sides, interactions, folder)
    found += plan.found
    if not plan.tables:
        return Findings(tuple(found))
    inspection = _Inspection(schema, plan)
    inspection.read()
    inspection.judge()
    return Findings((*found, *inspection.found), inspection.summary())


@dataclass
class _Gathered:
    """What a pass over one table gathered.

    Args:
        broken: Features whose column does not fit, and was not read further.
        totals: How many values each feature has.
        ranges: The least and the largest of them.
        counters: How often each value occurs, where that matters.
        faults: By feature and code, the first of them and how many.
        ids: Of a side table, in the order of its rows.
        lengths: Of a side table: of each row, how many values a list has that is paired with another.
    """

    broken: set[str] = field(default_factory=set)
    totals: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    counters: dict[str, Counter] = field(default_factory=dict)
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)
    ids: "pa.Array | None" = None
    lengths: "dict[str, npt.NDArray[Any]]" = field(default_factory=dict)

    def add_fault(self, feature: Feature, it: Fault) -> None:
        """Count a fault; the first of each code says where and why."""
        before = self.faults.get((feature.name, it.code))
        self.faults[feature.name, it.code] = it if before is None else replace(before, count=before.count + it.count)

    def add_range(self, feature: Feature, column: Column) -> None:
        """Take the values of a column in."""
        import pyarrow.compute as pc

        self.totals[feature.name] = self.totals.get(feature.name, 0) + len(column.values)
        low, high = pc.min_max(column.values).as_py().values()
        if low is not None:
            before = self.ranges.get(feature.name, (low, high))
            self.ranges[feature.name] = min(low, before[0]), max(high, before[1])


class _Inspection:
    """The pass over the tables, and what follows from it."""

    def __init__(self, schema: "Schema", plan: Plan) -> None:
        self.schema, self.plan, self.events = schema, plan, plan.tables[-1]
        self.found: list[Finding] = []
        self.gathered = {table: _Gathered() for table in plan.tables}
        self.vocabularies: dict[str, pa.Array] = {}
        self.numbers: dict[str, tuple[Table, Numbers]] = {}

    def add(self, level: Literal["error", "warning"], code: str, message: str, **figures: Any) -> None:
        """Add a finding."""
        self.found.append(Finding(level, code, message, **figures))

    # -- the pass -------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Read every table once."""
        schema = self.schema
        for name, domain in schema.domains.items():
            known = schema.fitted.vocabularies.get(name, domain.inline_values())
            if domain.file is not None:
                self._learn(domain, None)
            elif known is not None:
                self.vocabularies[name] = known
        for feature in schema:
            if feature.learns_statistics and feature.name not in schema.fitted.statistics:
                # the first table that holds it is enough for a mean
                first = next((it for it in [self.events, *self.plan.tables[:-1]] if feature in it.fitted), None)
                if first is not None:
                    self.numbers[feature.name] = first, Numbers(feature)
        for table in self.plan.tables:
            columns = list(dict.fromkeys(feature.source for feature in table.features))
            try:
                for piece in table.source.pieces(columns) if columns else ():
                    self._read_piece(table, piece)
            except DataError as reason:  # a row group that cannot be read
                self.add("error", "unreadable", str(reason), table=table.source.name)
                self.gathered[table].broken |= {feature.name for feature in table.features}

    def _read_piece(self, table: Table, piece: Piece) -> None:
        import numpy as np
        import pyarrow as pa

        it, columns = self.gathered[table], {}
        for feature in table.features:
            if feature.name in it.broken:
                continue
            try:
                column = read_column(feature, piece)
            except DataError as reason:
                it.broken.add(feature.name)
                self.add("error", "misfit", str(reason), **table.of(feature))
                continue
            columns[feature.name] = column
            it.add_range(feature, column)
            if self._is_counted(table, feature):
                it.counters.setdefault(feature.name, Counter()).add(column)
            codes = set()
            for found in self._faults(table, feature, column):
                if found.code not in codes:
                    codes.add(found.code)
                    it.add_fault(feature, found)
            source, numbers = self.numbers.get(feature.name, (None, None))
            if numbers is not None and source is table and "infinite" not in codes:
                numbers.add(column)
        paired = {
            name for feature in self.schema if feature.paired_with for name in (feature.name, feature.paired_with)
        }
        lengths = {
            name: np.diff(splits) for name in paired if name in columns and (splits := columns[name].splits) is not None
        }
        for side in self.plan.tables:
            if table in side.joined_to or (table is self.events and side is not table):
                self._compare_ids(table, side, columns)
        if table is self.events or table.catalogue:
            self._compare_lengths(table, piece, columns, lengths)
        if table.key is not None:
            for name, values in lengths.items():
                it.lengths[name] = np.concatenate([it.lengths.get(name, values[:0]), values])
            if table.key.name in columns:
                ids = columns[table.key.name].values
                it.ids = ids if it.ids is None else pa.concat_arrays([it.ids, ids])

    def _is_counted(self, table: Table, feature: Feature) -> bool:
        if feature.kind != "categorical" or feature.encoding in ("buckets", "calendar"):
            return False
        domain = self.schema.domains[feature.table]
        is_id = feature.has(Tags.ID) and table is self.events
        return is_id or len(domain.features) > 1 or (domain.learned and domain.file is None)

    def _faults(self, table: Table, feature: Feature, column: Column) -> Iterator[Fault]:
        """Yield what is wrong in some rows, the gravest of each code first."""
        import pyarrow.compute as pc

        looked_up = any(side.key is feature and table in side.joined_to for side in self.plan.tables)
        is_user = feature.has(Tags.USER_ID) and feature.list is None and table is self.events
        if looked_up or is_user or (feature is table.key and table.needed):
            missing = column.values.is_null().to_numpy(zero_copy_only=False)
            yield from fault("missing-value", feature, column, missing, "is missing; fill it in or remove the row")
        domain = self.schema.domains[feature.table] if feature.kind == "categorical" else None
        ranged = domain is not None and domain.encoding == "range"
        # Schema.fit refuses ids outside their table wherever they stand
        if feature in table.encoded or (ranged and feature in table.fitted):
            rows = self.schema.rows(feature.table) if ranged else None
            yield from faults_of(feature, column, rows, self.schema.takes_missing(feature))
        if feature in table.encoded and feature.kind == "continuous":
            yield from self._of_numbers(feature, column)
        if feature.name in self.numbers and self.numbers[feature.name][0] is table:
            yield from beyond(
                feature, column, column.values.cast("float64", safe=False).fill_null(0).to_numpy(), "float32"
            )
        if domain is not None and feature in table.encoded and domain.name in self.vocabularies:
            unknown = pc.and_(
                column.values.is_valid(), pc.invert(_is_in(column.values, self.vocabularies[domain.name]))
            )
            reason = (
                "is not in the vocabulary learned so far; Schema.fit adds it, a trained model does not know it"
                if domain.learned and domain.file is None
                else "is not in the vocabulary, and shares a row with all that is not; add it there or correct the data"
            )
            yield from fault(UNKNOWN, feature, column, unknown.to_numpy(zero_copy_only=False), reason)

    def _of_numbers(self, feature: Feature, column: Column) -> Iterator[Fault]:
        """Yield the numbers that do not fit when they are normalised."""
        import numpy as np

        statistics = self.schema.fitted.statistics.get(feature.name)
        if statistics is None and feature.time is not None:
            return  # ages that are counted from the newest of these rows are finite, and not below 0
        numbers = numbers_of(feature, statistics, column)
        yield from without_log1p(feature, column, numbers)
        if feature.normalize == "log1p":
            numbers = np.maximum(numbers, 0)
        if statistics is not None or feature.normalize in (None, "log1p"):
            yield from beyond(feature, column, normalized(feature, statistics, numbers), "float32")
        else:  # scaled by their own deviation or range, finite numbers are small
            yield from beyond(feature, column, numbers, "float64")

    def _compare_ids(self, table: Table, side: Table, columns: Mapping[str, Column]) -> None:
        """Find the ids without a row in a side table."""
        import pyarrow.compute as pc

        key, ids = side.key, self.gathered[side].ids
        if key is None or ids is None or key.name not in columns or key.name in self.gathered[side].broken:
            return
        column = columns[key.name]
        absent = pc.and_(column.values.is_valid(), pc.invert(_is_in(column.values, ids)))
        names = ", ".join(it.name for it in side.encoded if it is not key)
        reason = f"has no row in {side.source.name}; " + (f"{names} come from there: add it" if names else "add it")
        for it in fault(f"{ABSENT} {side.name}", key, column, absent.to_numpy(zero_copy_only=False), reason):
            self.gathered[table].add_fault(key, it)

    def _compare_lengths(
        self, table: Table, piece: Piece, columns: Mapping[str, Column], own: "Mapping[str, npt.NDArray[Any]]"
    ) -> None:
        """Find the rows where a list has not as many values as the one it is paired with, whichever tables they are joined from."""
        import numpy as np
        import pyarrow.compute as pc

        def lengths_of(name: str) -> "tuple[npt.NDArray[Any] | None, Table]":
            """Return the length of each row's list, [rows], -1 where a side table has none for it; and its table."""
            if name in own:
                return own[name], table
            for side in self.plan.tables:
                key, it = side.key, self.gathered[side]
                if table in side.joined_to and name in it.lengths and key is not None and key.name in columns:
                    rows = pc.fill_null(pc.index_in(columns[key.name].values, value_set=it.ids), -1).to_numpy()
                    return np.where(rows < 0, -1, it.lengths[name][rows]), side
            return None, table

        for feature in self.schema:
            if feature.paired_with is None:
                continue
            (values, its), (others, theirs) = lengths_of(feature.name), lengths_of(feature.paired_with)
            if values is None or others is None or (its is theirs is not table and its.catalogue):
                continue  # the items to recommend were compared when they were read
            wrong = (values != others) & (values >= 0) & (others >= 0)
            if wrong.any():
                first = int(np.argmax(wrong))
                row = piece.row(first)
                reason = (
                    f'feature "{feature.name}" has {values[first]} values and {feature.pair}'
                    f" {others[first]}; expected one for each"
                )
                unequal = Fault("unequal-lists", f"{piece.where}, row {row}", row, reason, int(wrong.sum()), 0, "rows")
                self.gathered[table].add_fault(feature, unequal)

    # -- what follows ---------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Report what only the whole of a table or domain shows."""
        failed = self._judge_numbers()
        for table, it in self.gathered.items():
            self._report_faults(table, it)
            self._report_repeated(table, it)
            self._report_constant(table, it, failed)
        for name, domain in self.schema.domains.items():
            self._judge_domain(name, domain)

    def _judge_numbers(self) -> set[str]:
        """Report the features whose numbers nothing can be learned of; return their names."""
        failed = set()
        for name, (table, numbers) in self.numbers.items():
            it = self.gathered[table]
            if name in it.broken or (name, "infinite") in it.faults:
                continue
            try:
                numbers.statistics()
            except DataError as reason:
                failed.add(name)
                code = "constant-column" if name in it.ranges else "empty-column"
                self.add("error", code, f"{table.source.name}: {reason}", **table.of(numbers.feature))
        return failed

    def _report_faults(self, table: Table, it: _Gathered) -> None:
        for (name, code), one in it.faults.items():
            feature, (kind, _, side) = self.schema[name], code.partition(" ")
            optional = [other.name for other in self.plan.tables if table not in other.joined_to]
            total = table.source.rows if one.unit == "rows" else it.totals[name]
            self.add(
                "warning" if kind == UNKNOWN or side in optional else "error",
                kind,
                str(replace(one, total=total)),
                **table.of(feature),
                row=one.row,
                count=one.count,
                total=total,
            )

    def _report_repeated(self, table: Table, it: _Gathered) -> None:
        import pyarrow.compute as pc

        if table.key is None or it.ids is None or table.key.name in it.broken:
            return
        counts = pc.value_counts(it.ids.drop_null())
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(repeated):
            value, times = repeated.field("values")[0], repeated.field("counts")[0].as_py()
            rows = int(pc.sum(repeated.field("counts")).as_py())
            self.add(
                "error" if table.needed else "warning",
                "repeated-id",
                f"{table.source.name}, row {pc.index(it.ids, value).as_py()}: {table.key.name} {value.as_py()!r} stands {times} times"
                f" ({len(repeated)} ids are repeated, in {rows} of {table.source.rows} rows); expected one row for each: remove the others",
                **table.of(table.key),
                row=pc.index(it.ids, value).as_py(),
                count=rows,
                total=table.source.rows,
            )

    def _report_constant(self, table: Table, it: _Gathered, failed: set[str]) -> None:
        for feature in table.features:
            name = feature.name
            if name in it.broken or name in failed or table.source.rows == 1 or (name, "missing-value") in it.faults:
                continue
            low, high = it.ranges.get(name, (None, None))
            place = f'{table.source.name}: the column "{feature.source}" of feature "{name}"'
            if low is None:
                self.add(
                    "warning",
                    "empty-column",
                    f"{place} holds no value in any row; nothing can be learned of it",
                    **table.of(feature),
                )
            elif low == high:
                self.add(
                    "warning",
                    "constant-column",
                    f"{place} holds {low!r} alone; nothing can be learned of it",
                    **table.of(feature),
                )

    def _judge_domain(self, name: str, domain: Domain) -> None:
        counters = {
            feature.name: Counter([part for it in gathered for part in it.counters[feature.name].tables])
            for feature in domain.features
            if (gathered := [it for it in self.gathered.values() if feature.name in it.counters])
        }
        broken = any(feature.name in it.broken for it in self.gathered.values() for feature in domain.features)
        if broken:
            return
        if domain.learned and domain.file is None and counters:
            tables = [table for table, it in self.gathered.items() if counters.keys() & it.counters.keys()]
            where = f"{', '.join(table.source.name for table in tables)}: "
            self._learn(domain, Counter([part for counter in counters.values() for part in counter.tables]), where)
        self._report_overlap(domain, counters)
        if domain.pretrained and (name in self.vocabularies or domain.encoding == "range"):
            try:
                vectors_of(domain, self.vocabularies, self.schema.fitted, self.plan.folders)
            except SchemaFlowError as reason:
                self.add("error", "pretrained", str(reason), feature=domain.features[0].name)

    def _learn(self, domain: Domain, counter: Counter | None, where: str = "") -> None:
        """Take a vocabulary in, or report why `Schema.fit` cannot."""
        known = self.schema.fitted.vocabularies.get(domain.name)
        self.vocabularies.pop(domain.name, None)
        try:
            self.vocabularies[domain.name] = vocabulary_of(domain, counter, known, self.plan.folders)
        except SchemaFlowError as reason:
            code = "cardinality" if isinstance(reason, SchemaError) else "vocabulary"
            self.add("error", code, f"{where}{reason}", feature=domain.features[0].name)

    def _report_overlap(self, domain: Domain, counters: Mapping[str, Counter]) -> None:
        import pyarrow.compute as pc

        if len(counters) < 2:
            return
        values = {name: counter.total()["value"].drop_null() for name, counter in counters.items()}
        first = next((it.name for it in domain.features if it.name in values and it.has(Tags.ID)), next(iter(values)))
        for name, mine in values.items():
            shared = pc.sum(_is_in(mine, values[first])).as_py() or 0
            if name != first and len(mine) and shared < BARELY * len(mine):
                example = mine.filter(pc.invert(_is_in(mine, values[first])))[0].as_py()
                self.add(
                    "warning",
                    "domain",
                    f'features "{first}" and "{name}" share the domain "{domain.name}", but {len(mine) - shared} of the'
                    f' {len(mine)} values of "{name}" are none of "{first}", such as {example!r}; are they written alike?',
                    feature=name,
                    count=len(mine) - shared,
                    total=len(mine),
                )

    def summary(self) -> dict[str, Any]:
        """Return how much there is: rows, users and items, and of each side table its rows and those never met."""
        import pyarrow.compute as pc

        counters = self.gathered[self.events].counters
        figures: dict[str, Any] = {"rows": self.events.source.rows}
        for tag, word in ((Tags.USER, "users"), (tower_tags(self.schema)[1], "items")):
            ids = next((it for it in self.events.encoded if it.has(tag) and it.has(Tags.ID) and it.list is None), None)
            if ids is not None and ids.name in counters:
                figures[word] = len(counters[ids.name].total()["value"].drop_null())
        figures["tables"] = {}
        for table in self.plan.tables[:-1]:
            rows = figures["tables"][table.name] = {"rows": table.source.rows}
            ids = self.gathered[table].ids
            if table.key is not None and ids is not None and table.key.name in counters:
                met = _is_in(ids, counters[table.key.name].total()["value"])
                rows["without_interactions"] = len(met) - (pc.sum(met).as_py() or 0)
        return figures


def _is_in(values: Any, others: Any) -> Any:
    import pyarrow.compute as pc

    return pc.is_in(values, value_set=others)
