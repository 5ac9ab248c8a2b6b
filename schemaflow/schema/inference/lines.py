"""What each column becomes: a line of the draft, with what was found in it, or why it is left out."""

from dataclasses import dataclass, field, replace
from typing import Any

from schemaflow.schema.inference.hints import Hints
from schemaflow.schema.inference.roles import Roles, share_in
from schemaflow.schema.inference.survey import Profile, percent
from schemaflow.schema.tags import Tags

__all__ = ["Line", "lines_of", "share_tables"]

CODES = 50
"""Distinct values up to which integers of no telling name are taken for codes."""

NEAR_UNIQUE = 0.9
"""Distinct values for each user or item from which a value tells them apart, and says nothing of others."""

PASSING = 0.5
"""Distinct values for each interaction from which a value belongs to one row, and is never met again."""

TEXT = 2.0
"""Words from which a near-unique string is a text, whose words others share."""

OVERLAP = 0.9
"""The share of a column's values that another holds too from which they may share an embedding table."""

_FLOAT32 = 3.4e38
"""What float32 holds."""

_WIDTHS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]


@dataclass(eq=False)
class Line:
    """A feature of the draft, or a column that is left out of it.

    Args:
        profile: The column.
        spec: The feature as YAML would say it, without `column`.
        found: What was found in the column.
        reason: Why it is left out; None where it is not.
        weights: The list that weighs its values, where there is one.
    """

    profile: Profile
    spec: dict[str, Any]
    found: str
    reason: str | None = None
    weights: "Line | None" = None

    @property
    def column(self) -> str:
        """The name of the Parquet column."""
        return self.profile.name


@dataclass
class _Parts:
    """The lines under their headings."""

    by_heading: dict[str, list[Line]] = field(default_factory=lambda: {"users": [], "items": [], "interactions": []})

    def add(self, side: Tags, line: Line) -> None:
        self.by_heading[{Tags.USER: "users", Tags.ITEM: "items"}.get(side, "interactions")].append(line)


def lines_of(roles: Roles) -> dict[str, list[Line]]:
    """Return the lines of the draft under the heading of each part."""
    table, parts = roles.table, _Parts()
    own = dict(table.columns)
    for side, column in roles.ids.items():
        line = _id_line(own.pop(column), side)
        for other in (it for _, it in roles.sides if column in it.columns):
            _widen(line, other.columns[column])
        parts.add(side, line)
    taken = set(roles.ids.values())
    for side, other in roles.sides:
        lines = [
            _input_line(profile, side, other.rows) for name, profile in other.columns.items() if name != roles.ids[side]
        ]
        clashing = [line for line in lines if line.column in taken]
        _weigh([line for line in lines if line not in clashing])
        for line in lines:
            of_row = _value_line(own[line.column]) if line.column in own else None
            if of_row is not None and of_row.reason is None and line.column not in taken:
                word = of_row.spec["tags"][0]
                line.reason = f"the interactions have a column of that name, their {word}: rename one of them"
            elif line in clashing:
                line.reason = "another table has a column of that name too: rename one of them"
            elif line.column in own:
                _widen(line, own.pop(line.column))
            parts.add(side, line)
            taken.add(line.column)
    for name, profile in own.items():
        side, note = _determined(name, roles)
        rows = table.columns[roles.ids[side]].distinct if side in roles.ids else table.rows
        line = (_value_line(profile) if side is Tags.CONTEXT else None) or _input_line(profile, side, rows)
        line.found += note
        if side is Tags.CONTEXT and line.reason is None and _may_come_later(line):
            line.reason = (
                f"is neither the user's nor the item's: take the # away if it is known when one asks; {line.found}"
            )
        parts.add(side, line)
    for tag in (Tags.TIME, Tags.WEIGHT, Tags.POSITION):
        alike = [it for it in parts.by_heading["interactions"] if it.spec.get("tags") == [tag] and it.reason is None]
        for line in alike[1:]:
            line.reason = f"{alike[0].column} is the {tag} already; {line.found}"
    return parts.by_heading


def _may_come_later(line: Line) -> bool:
    """Tell whether a column of the interactions may be known only once an item is chosen, for all that its name says."""
    inputs = not {Tags.TIME, Tags.WEIGHT, Tags.POSITION, Tags.TARGET} & set(line.spec["tags"])
    is_history = Tags.SEQUENCE in line.spec["tags"] and not Hints(line.column).is_outcome
    return inputs and not is_history and not Hints(line.column).is_known_when_asking


def _determined(column: str, roles: Roles) -> tuple[Tags, str]:
    """Return the side of a column of the interactions: whose id determines it, or whose name it bears where too few rows tell.

    What is neither the user's nor the item's is the context's: known when one asks, or so it is hoped.
    """
    hints = Hints(column)
    if hints.is_apart or (hints.ends_as_id and roles.table.columns[column].is_list):  # a list of ids is what was before
        return Tags.CONTEXT, ""
    strengths = {
        side: strength
        for side in (Tags.USER, Tags.ITEM)
        if side in roles.ids and (strength := roles.table.survey.strength(roles.ids[side], column)) is not None
    }
    for side, strength in strengths.items():
        if strength >= 0.98:
            beside = "" if strength == 1.0 else f" but for {percent(1 - strength)}"
            return side, f", one for each {roles.ids[side]}{beside}"
    if strengths.get(Tags.ITEM, 0.0) >= 0.5:  # in the query tower it would give the item away
        return Tags.ITEM, f", mostly the same for a {roles.ids[Tags.ITEM]}"
    if hints.side in (Tags.USER, Tags.ITEM) and hints.side not in strengths:
        return hints.side, ""
    return Tags.CONTEXT, ""


def _id_line(profile: Profile, side: Tags) -> Line:
    spec: dict[str, Any] = {"dtype": profile.dtype, "tags": [side.value, Tags.ID.value]}
    if side is not Tags.SESSION:  # that of a session only tells queries apart
        spec["vocabulary"] = "learned"
    known = side in (Tags.USER, Tags.ITEM)
    hint = (
        f": remove those rows, {'an item' if side is Tags.ITEM else 'a user'} must be known"
        if known and profile.missing
        else ""
    )
    return Line(profile, spec, profile.summary + hint)


def _value_line(profile: Profile) -> Line | None:
    """Return the line of a column of the interactions that no new query has: a target, a time, a weight, the split."""
    hints = Hints(profile.name)
    if profile.dtype is None or profile.is_list or not profile.present:
        return None
    unit, binary = _unit(profile), _is_binary(profile)
    line = Line(profile, {"dtype": profile.dtype, "tags": []}, profile.summary)
    if hints.is_apart or (hints.is_outcome and unit is None and not hints.is_rating and not binary):
        why = "says how the rows were made" if hints.is_apart else "is known only once an item is chosen"
        line.spec["tags"] = _tags(Tags.CONTEXT, Tags.CATEGORICAL if profile.dtype == "string" else Tags.CONTINUOUS)
        line.reason = f"{why}, by its name; {line.found}"
        return line
    if unit is not None:
        line = _moment_line(profile, unit, _tags(Tags.TIME))
    elif profile.dtype == "string":
        return None
    elif hints.is_weight and profile.low >= 0:
        line.spec["tags"] = _tags(Tags.WEIGHT)
    elif hints.is_position:
        line.spec["tags"] = _tags(Tags.POSITION)
    elif hints.is_rating:
        line.spec["tags"] = _tags(Tags.TARGET, Tags.REGRESSION)
    elif binary:
        line.spec["tags"] = _tags(Tags.TARGET, Tags.BINARY)
        ones = percent(profile.total / profile.present)
        line.found = f"0 or 1, {ones} are 1: retrieval learns from every row, so keep those of 1"
    else:
        return None
    if profile.missing:
        line.reason = f"{percent(profile.missing / profile.rows)} null, but a {line.spec['tags'][0]} must not be missing; {line.found}"
    elif profile.distinct == 1:
        line.reason = "the same value wherever there is one"
    return line


def _is_binary(profile: Profile) -> bool:
    """Whether it is something that users did or did not do."""
    return Hints(profile.name).is_binary and (profile.low, profile.high, profile.distinct) == (0, 1, 2)


def _unit(profile: Profile) -> str | None:
    """Return the unit of a moment: as Arrow has it, or of integers of a telling name by how large they are."""
    if profile.unit is not None or profile.dtype not in ("int32", "uint32", "int64") or not Hints(profile.name).is_time:
        return profile.unit
    if profile.is_list or profile.low < 1e8 or profile.high >= 5e18:
        return None
    return next((unit for unit, most in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if profile.high < most), "ns")


def _moment_line(profile: Profile, unit: str, tags: list[str]) -> Line:
    moments = replace(profile, unit=unit)
    spec: dict[str, Any] = {"dtype": "int64", "tags": tags}
    time = ({} if unit == "s" else {"unit": unit}) | ({} if tags == [Tags.TIME] else {"take": "age"})
    if time:
        spec["time"] = time
    if "take" in time:
        spec |= {"normalize": "standard"} | ({"missing": "mean"} if profile.missing else {})
    return Line(profile, spec, moments.summary)


def _input_line(profile: Profile, side: Tags, rows: int) -> Line:
    """Return the line of a column that enters a tower.

    Args:
        profile: The column.
        side: Its tower's.
        rows: How many users, items or interactions there are: what a near-unique value would tell apart.
    """
    if profile.unreadable is not None:
        return Line(profile, {}, "", f"holds {profile.type}, and cannot be read: {profile.unreadable}")
    if profile.dtype is None:
        return Line(profile, {}, "", f"holds {profile.type}, which no feature reads")
    if profile.is_list:
        line = _list_line(profile, side)
    elif unit := _unit(profile):
        line = _moment_line(profile, unit, _tags(side))
    elif profile.dtype.startswith("float") or (profile.dtype != "string" and not _is_code(profile)):
        line = _number_line(profile, side)
    else:
        line = _word_line(profile, side, rows)
    if profile.present == 0:
        line.reason = "no value in any row"
    elif profile.distinct == 1 and not profile.is_list and ("normalize" in line.spec or not profile.missing):
        line.reason = "the same value wherever there is one"
    return line


def _list_line(profile: Profile, side: Tags) -> Line:
    if profile.dtype.startswith("float"):
        spec: dict[str, Any] = {
            "dtype": profile.dtype,
            "tags": _tags(side, Tags.EMBEDDING),
            "embedding": {"dim": profile.longest},
        }
        if profile.missing:
            spec["missing"] = {"value": 0}
        reason = None if profile.shortest == profile.longest else f"a dense vector has one length; {profile.summary}"
        if profile.present and max(-profile.low, profile.high) > _FLOAT32:
            reason = f"holds values beyond float32; {profile.summary}"
        return Line(profile, spec, profile.summary, reason)
    history = Hints(profile.name).names_the_values_of(Hints("item_id")) and side is not Tags.ITEM
    tags = _tags(side, Tags.SEQUENCE if history else Tags.CATEGORICAL)
    return Line(profile, {"dtype": profile.dtype, "tags": tags, "vocabulary": "learned", "list": {}}, profile.summary)


def _number_line(profile: Profile, side: Tags) -> Line:
    spec = {"dtype": profile.dtype, "tags": _tags(side, Tags.CONTINUOUS), "normalize": "standard"}
    if profile.missing:
        spec["missing"] = "mean"
    line = Line(profile, spec, profile.summary)
    if Hints(profile.name).is_id:
        line.reason = f"holds {profile.type}, which rounds ids: write it as integers or strings"
    elif profile.present and max(-profile.low, profile.high) > _FLOAT32:
        line.reason = f"holds values beyond float32; {line.found}"
    return line


def _word_line(profile: Profile, side: Tags, rows: int) -> Line:
    """Return the line of strings and codes: categories, texts, or what tells rows apart and no more."""
    spec = {"dtype": profile.dtype, "tags": _tags(side, Tags.CATEGORICAL), "vocabulary": "learned"}
    most = max(1, min(rows, profile.present))
    if profile.distinct < 10 or profile.distinct / most < (PASSING if side is Tags.CONTEXT else NEAR_UNIQUE):
        return Line(profile, spec, profile.summary)
    words = profile.words / max(1, profile.strings)
    if words >= TEXT and side is not Tags.CONTEXT:
        return Line(profile, {**spec, "tags": _tags(side, Tags.TEXT)}, f"{profile.summary}, {words:.1f} words")
    reason = f"{profile.counted} for {most:,}, so it tells them apart and says little of others"
    if Hints(profile.name).is_time:
        reason += "; times are read from Arrow timestamps or dates, not from text"
    return Line(profile, spec, "", reason)


def _is_code(profile: Profile) -> bool:
    """Whether integers are codes: by name, by being few, or by leaving no gaps."""
    hints = Hints(profile.name)
    if hints.is_code or hints.is_number:
        return hints.is_code
    return profile.distinct <= CODES or profile.distinct >= 0.8 * (profile.high - profile.low + 1)


def _tags(*tags: Tags) -> list[str]:
    return [tag.value for tag in tags]


def _widen(line: Line, other: Profile) -> None:
    """Give a line a dtype that reads another table's column of the same name too."""
    mine, theirs = line.profile, other
    if (mine.dtype, mine.is_list, mine.unit) == (theirs.dtype, theirs.is_list, theirs.unit):
        return
    if mine.is_list != theirs.is_list or mine.unit or theirs.unit or not {mine.dtype, theirs.dtype} <= set(_WIDTHS):
        line.reason = f"is {mine.type} in one table and {theirs.type} in another: write both alike"
        return
    widest = max(mine.dtype, theirs.dtype, key=_WIDTHS.index)
    mixed = mine.dtype.startswith("u") != theirs.dtype.startswith("u") and not widest.startswith("float")
    line.spec["dtype"] = "int64" if mixed else widest


def _weigh(lines: list[Line]) -> None:
    """Let lists of numbers weigh the values of the lists that are always as long, where their name says so."""
    for line in lines:
        profile = line.profile
        numbers = profile.is_list and profile.dtype not in (None, "string")
        if not numbers or not Hints(profile.name).is_amount_of_values:
            continue
        weighed = next((it for it in lines if it is not line and _may_be_weighed(it, profile)), None)
        if weighed is not None:
            side = line.spec["tags"][0]
            line.spec = {"dtype": profile.dtype, "tags": [side, Tags.WEIGHT.value], "list": {}}
            line.reason, line.found = None, f"{line.found}, as long as {weighed.column}"
            weighed.weights = line


def _may_be_weighed(line: Line, weights: Profile) -> bool:
    return (
        line.profile.is_list
        and line.reason is None
        and line.weights is None
        and Tags.WEIGHT not in line.spec["tags"]
        and line.profile.lengths == weights.lengths
        and bool(set(Hints(line.column).words) & set(Hints(weights.name).words))
    )


def share_tables(lines: list[Line], id_columns: dict[Tags, str], names: dict[int, str]) -> None:
    """Let features whose values are among those of another share its embedding table, ids first."""
    candidates = [
        it for it in lines if it.reason is None and "vocabulary" in it.spec and Tags.TEXT not in it.spec["tags"]
    ]
    of_ids = [it for it in candidates if it.column in id_columns.values()]
    others = sorted((it for it in candidates if it not in of_ids), key=lambda it: -it.profile.distinct)
    roots = list(of_ids)
    for line in others:
        root = next((it for it in roots if _shares(line, it, it in of_ids)), None)
        if root is None:
            roots.append(line)
            continue
        line.spec["domain"] = names[id(root)]
        line.found += f", {percent(share_in(line.profile, root.profile))} of them among those of {names[id(root)]}"


def _shares(line: Line, root: Line, is_id: bool) -> bool:
    hints, of_root = Hints(line.column), Hints(root.column)
    one, other = line.profile, root.profile
    if one.distinct < 5 or max(share_in(one, other), share_in(other, one)) < OVERLAP:
        return False
    if one.digits and other.digits:  # numbers overlap by chance: the names must agree
        return hints.names_the_values_of(of_root) if is_id else hints.is_another(of_root)
    return True
