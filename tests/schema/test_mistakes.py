"""Every mistake in a schema file ends in one line that says where it is and what to do."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import SchemaError
from schemaflow.schema.yaml_text import load
from tests.schema.strategies import documents

pytestmark = pytest.mark.short

HEAD = "version: 1\nfeatures:\n"
GOOD = "  item_id: {dtype: int64, tags: [item, id], cardinality: 9}\n"


@pytest.fixture(scope="module", autouse=True, params=[True, False], ids=["libyaml", "PyYAML"])
def _scanner(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs with libyaml, and as where PyYAML was built without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "__with_libyaml__", request.param and yaml.__with_libyaml__)
        yield


def problems_of(text: str, folder: Path) -> list[str]:
    path = folder / "shop.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SchemaError) as caught:
        sf.Schema.from_yaml(path)
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


MISTAKES = [
    ("  a: {dtype: int64, tags: [item, categorical], cardinalty: 9}", '3:48: unknown key "cardinalty" in feature "a"; did you mean "cardinality"?'),
    ("  a: {dtype: int64, tags: [usr, id], cardinality: 9}", '3:28: feature "a": unknown tag "usr"; did you mean "user"?'),
    ("  a: {dtype: int64, tags: [item, categorical]}", '3:3: feature "a" is categorical but has no cardinality; add "cardinality: <rows>"'),
    ("  a: {dtype: strng, tags: [item, categorical]}", '3:7: "dtype" in feature "a": expected'),
    ("  a: {tags: [item, categorical]}", '3:3: the key "dtype" is missing in feature "a"'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: yes}", '3:39: "cardinality" in feature "a": expected integer, received the boolean true'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: '9'}", '3:39: "cardinality" in feature "a": expected integer, received "9"'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: 0}", '3:39: "cardinality" in feature "a": expected greater than or equal to 1'),
    ("  a: {dtype: int64, tags: [item, continuous, categorical]}", '3:3: feature "a" is tagged both continuous and categorical'),
    ("  a: {dtype: int64, tags: [item]}", '3:3: feature "a" has dtype int64 and may be a number or a code'),
    ("  a: {dtype: float32, tags: [item, id], cardinality: 9}", '3:3: feature "a" is categorical but has dtype float32'),
    ("  a: {dtype: string, tags: [item, continuous]}", '3:3: feature "a" is continuous but has dtype string'),
    ("  a: {dtype: string, tags: [item, tokenized]}", '3:3: feature "a" is tagged tokenized, which nothing reads yet'),
    ("  a: {dtype: int64, tags: [item, sequence], cardinality: 9}", '3:3: feature "a" is a sequence but not a list'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: 9, list: {}}", '3:3: feature "a" is an id and a list'),
    ("  a: {dtype: float32, tags: [item], list: {}}", '3:3: feature "a" is a list but not categorical'),
    ("  a: {dtype: float32, tags: [target], cardinality: 9}", '3:3: feature "a" has "cardinality" but is kept out of the towers'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: 9, normalize: standard}", '3:3: feature "a" has "normalize" but is not continuous'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: 9, embedding: {combiner: sum}}", '3:3: feature "a" has a combiner but is not a list'),
    ("  a: {dtype: int64, tags: [item, id], vocabulary: [1, b]}", '3:3: feature "a" has dtype int64 but \'b\' in its vocabulary'),
    ("  a: {dtype: string, tags: [item, id], vocabulary: [b, b]}", '3:3: feature "a" has \'b\' twice in its vocabulary'),
    ("  a: {dtype: string, tags: [item, id], cardinality: 3}", '3:3: feature "a" has cardinality 3, which leaves no row'),
    ("  a: {dtype: string, tags: [item, id], vocabulary: [b, c], cardinality: 4}", '3:3: feature "a" has cardinality 4, but its vocabulary'),
    ("  k: {dtype: int64, tags: [item, id], cardinality: 9}", '3:3: feature "k" has a name that the exported signatures use'),
    ("  zip code: {dtype: int64, tags: [item, id], cardinality: 9}", '3:3: feature "zip code" has a name that is not letters'),
    ("  1: {dtype: int64, tags: [item, id], cardinality: 9}", '3:3: expected a name as the key, received "1"; put it in quotes'),
    ("  class: {dtype: int64, tags: [item, id], cardinality: 9}", '3:3: feature "class" has a name that the exported signatures'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: 9, name: b}", '3:55: unknown key "name" in feature "a"'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: 9, domain: a/b}", '3:3: feature "a" has the domain "a/b"'),
    ("  a: {dtype: int64, tags: [user, filter, id], cardinality: 9}", '3:3: feature "a" is tagged filter but not item'),
    ("  a: {dtype: float32, tags: [item, filter, target]}", '3:3: feature "a" is tagged both filter and target'),
    ("  a: {dtype: string, tags: [item, filter, text], cardinality: 9}", '3:3: feature "a" is tagged filter but is a text'),
    ("  a: {dtype: float32, tags: [item, filter, embedding], embedding: {dim: 2}}", '3:3: feature "a" is tagged filter but is a dense vector'),
    ("  a: {dtype: int64, tags: [item, filter], cardinality: 9}", '3:3: feature "a" has "cardinality" but is kept out of the towers'),
    ("  a: {dtype: int64, tags: [x-, id], cardinality: 9}", '3:28: feature "a": unknown tag "x-"; one of your own is x- and a name'),
    ("  a: {dtype: float32, tags: [explicit_negative]}", '3:3: feature "a" is tagged explicit_negative but has dtype float32'),
    ("  a: {dtype: string, tags: [item, id], vocabulary: []}", '3:3: feature "a" has an empty vocabulary'),
    ("  a: {dtype: int8, tags: [item, id], vocabulary: [300]}", '3:3: feature "a" has dtype int8 but 300 in its vocabulary'),
    ("  a: &x {dtype: int64, tags: [item, id], cardinality: 9, list: *x}", "3:58: an alias (*name) is not supported"),
    ("  a: {dtype: int64, tags: [item, id], vocabulary: learnt}", '3:39: "vocabulary" in feature "a": expected \'learned\', received "learnt"'),
    ("  a: {dtype: string, tags: [item, id], vocabulary: [yes, no]}", '3:40: feature "a": "vocabulary": expected learned'),
    ("  a: {dtype: int64, tags: [3], cardinality: 9}", '3:28: feature "a": unknown tag 3; a tag is a word'),
    ("  a: {dtype: int64, tags: [item, id], cardinality: 9, '@list': 3}", '3:55: unknown key "@list" in feature "a"; did you mean "list"?'),
    ("  ? [a, b]\n  : {dtype: int64}", "3:5: expected a name as the key, received a list or keys and values"),
    ("  a: {dtype: !foo x}", "3:7: a tag (!foo) is not supported; write the value without it"),
    ("  a: " + "[" * 3000, "nested too deeply"),
    ("  a: 3", '3:3: "a" in "features": expected keys and values, received 3'),
    ("  a: {dtype: int64", "not valid YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), MISTAKES)
def test_one_mistake_one_line(line: str, expected: str, tmp_path: Path) -> None:
    problems = problems_of(HEAD + line + "\n", tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith("shop.yaml:")
    assert expected in problems[0]


def test_all_mistakes_are_reported_in_one_go(tmp_path: Path) -> None:
    text = HEAD + "  a: {dtype: x, tags: [usr]}\n  b: {dtype: int64, tags: [item], nul: 1}\nmore: 1\n"
    problems = problems_of(text, tmp_path)
    assert [problem.split(":")[1] for problem in problems] == ["3", "3", "4", "5"]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert problems_of(HEAD + GOOD + GOOD, tmp_path) == [
        'shop.yaml:4:3: the key "item_id" stands twice, first on line 3; remove one'
    ]


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    problems = problems_of(HEAD + GOOD + GOOD.replace("item_id", "Item_id"), tmp_path)
    assert len(problems) == 2
    assert 'shop.yaml:3:3: feature "item_id" differs from another in case alone' in problems[0]


def test_a_table_is_joined_by_an_id(tmp_path: Path) -> None:
    text = (
        "version: 1\ntables: {items: {file: i.parquet, key: g}}\nfeatures:\n"
        + GOOD
        + "  g: {dtype: float32, tags: [item]}\n"
    )
    assert 'joined by "g", which is not an id' in problems_of(text, tmp_path)[0]


def test_a_table_joined_by_no_feature_is_refused(tmp_path: Path) -> None:
    text = "version: 1\ntables: {items: {file: i.parquet, key: itemid}}\nfeatures:\n" + GOOD
    assert problems_of(text, tmp_path) == [
        'shop.yaml:2:10: table "items" is joined by "itemid", which is not a feature; did you mean "item_id"?'
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"- a\n", "expected keys and values at the top level"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"version: 2\nfeatures: {}\n", '"version": expected 1, received 2'),
        (b"version: 1\nfeatures: {}\n", '"features": expected'),
        (b"version: 1\nfitted: gone\nfeatures:\n" + GOOD.encode(), "there is no such folder of vocabularies"),
    ],
)
def test_files_that_are_no_schema(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(content)
    with pytest.raises(SchemaError, match=expected):
        sf.Schema.from_yaml(tmp_path / "s.yaml")
    with pytest.raises(SchemaError, match="there is no such schema file"):
        sf.Schema.from_yaml(tmp_path / "other.yaml")


def test_mistakes_of_every_sort_are_reported_in_one_go_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
version: 2
tables: {items: {file: i.parquet, key: itemid}}
features:
  item_id: {dtype: int64, tags: [item, id], cardinality: 9, cardinality: 10}
  zone: {dtype: int64, tags: [item, categorical], cardinality: 010}
  same: {dtype: int64, tags: [item, categorical]}
  color: {dtype: int64, tags: [item, categorical], cardinality: 9, domain: *shade}
  kind: {dtype: int64, tags: [itm, categorical], cardinality: 9}
  kind: {dtype: int64, tags: [item, categorical], cardinality: 9}
fitted: gone
"""
    problems = problems_of(text, tmp_path)
    assert [problem.removeprefix("shop.yaml:")[:60] for problem in problems] == [
        '1:1: "version": expected 1, received 2',
        '2:10: table "items" is joined by "itemid", which is not a feature; did you mean "item_id"?'[:60],
        '4:61: the key "cardinality" stands twice, first on line 4; remove one'[:60],
        '5:51: YAML reads 010 as the octal number 8; write 8, or "010" in quotes'[:60],
        '6:3: feature "same" is categorical but has no cardinality; add'[:60],
        "7:68: an alias (*name) is not supported; write the value out"[:60],
        '8:31: feature "kind": unknown tag "itm"; did you mean "item"?'[:60],
        '9:3: the key "kind" stands twice, first on line 8; remove one'[:60],
        f"10:1: {tmp_path}/gone: there is no such folder of vocabularies; restore it"[:60],
    ]


@pytest.mark.parametrize(
    "broken",
    [
        "  owner: {dtype: int64, tags: [itm, id], cardinality: 9, domain: thing}\n",
        "  owner: {dtype: int64, tags: [item, id], cardinality: 9, doman: thing}\n",
        "  owner: {dtype: int64, tags: [item, id], cardinality: 9, domain: thing, embedding: *wide}\n",
        "  owner: {dtype: int64, tags: [item, id], cardinality: 0x9, domain: thing}\n",
    ],
)
def test_a_mistake_is_not_blamed_on_others(broken: str, tmp_path: Path) -> None:
    text = (
        "version: 1\ntables: {items: {file: i.parquet, key: owner}}\nfeatures:\n"
        + broken
        + "  other: {dtype: int64, tags: [item, sequence], list: {}, domain: thing}\n"
    )
    problems = problems_of(text, tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith("shop.yaml:4:")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("010", 'YAML reads 010 as the octal number 8; write 8, or "010" in quotes'),
        ("-010", "YAML reads -010 as the octal number -8; write -8"),
        ("0b11", "as the binary number 3"),
        ("0x1F", "as the hexadecimal number 31"),
        ("1:30", "as the sexagesimal number 90"),
        ("1:30.5", "as the sexagesimal number 90.5"),
        ("1_000", "YAML reads 1_000 as the number 1000; write 1000"),
        ("1_000.5", "as the number 1000.5"),
        ("0x_", 'write "0x_", in quotes'),
        ("2024-02-29", 'YAML reads 2024-02-29 as a date; write "2024-02-29", in quotes'),
        ("2024-13-41", 'YAML reads 2024-13-41 as a date; write "2024-13-41", in quotes'),
        ("9" * 5000, "in quotes, if it is none"),
    ],
)
def test_numbers_that_are_not_what_they_look_like_are_refused(written: str, meant: str, tmp_path: Path) -> None:
    line = f"  item_id: {{dtype: string, tags: [item, id], vocabulary: [a, {written}]}}\n"
    problems = problems_of(HEAD + line, tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith("shop.yaml:3:62: ")
    assert meant in problems[0]
    (tmp_path / "quoted.yaml").write_text(HEAD + line.replace(written, f"'{written}'"), encoding="utf-8")
    assert sf.Schema.from_yaml(tmp_path / "quoted.yaml")["item_id"].vocabulary == ("a", written)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "\tname: {dtype: int64}\n", "shop.yaml:3:1: not valid YAML: a tab where YAML takes spaces alone"),
        (HEAD + GOOD + "  a\x07: 3\n", "shop.yaml:4:4: not valid YAML: the character U+0007 may not stand here"),
        (HEAD + GOOD + "---\nversion: 1\n", "shop.yaml:4:1: a second document begins here"),
        (HEAD + GOOD.rstrip("}\n") + "\nname: x\n", ", while parsing a flow mapping that begins on line 3"),
        (HEAD + GOOD.replace("id]", 'id, "a\\nb"]'), 'shop.yaml:3:44: feature "item_id": unknown tag "a\\nb"'),
        (HEAD + GOOD.replace("item_id", "età"), 'rename it and say "column: <the Parquet name>"'),
        (HEAD + "  ? " + "? " * 3000, "nested too deeply"),
        (HEAD + "  a: " + "{" * 3000, "nested too deeply"),
        (HEAD + "  - " + "- " * 3000, "nested too deeply"),
        ("*x", "an alias (*name) is not supported"),
        (HEAD + GOOD + "fitted: " + "x" * 5000, "cannot be read as a folder of vocabularies"),
    ],
)
def test_text_that_yaml_or_people_misread(text: str, expected: str, tmp_path: Path) -> None:
    problems = problems_of(text, tmp_path)
    assert len(problems) == 1
    assert expected in problems[0]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xef\xbb\xbf" + (HEAD + GOOD).replace("\n", "\r\n").encode())
    assert sf.Schema.from_yaml(tmp_path / "s.yaml").column_names == ["item_id"]


VALID = [path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[2] / "schemas").glob("*.yaml"))]
WRITTEN = documents().map(lambda it: yaml.safe_dump(it, allow_unicode=True, sort_keys=False, default_flow_style=None))
PIECES = [
    *(
        "x",
        "[",
        "]",
        "{",
        "}",
        ":",
        " ",
        "  ",
        "\n",
        "\n ",
        "- ",
        "? ",
        "\t",
        "&a ",
        "*a",
        "!",
        "!!int ",
        "#",
        "'",
        '"',
    ),
    *("|", ">", "%", "@", "010", "yes", "null", "~", "<<", "=", ",", "é", "名", "\u2028", "\x00", "\x85", "\ufeff"),
    *("\U0001f600", "---\n", "1:30", "2024-01-01", "1e3", ".inf"),
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid file after a few edits such as people and editors make."""
    text = draw(st.one_of(st.sampled_from(VALID), WRITTEN))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        lines = text.splitlines(keepends=True) or [""]
        first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        edit = draw(st.sampled_from(["insert", "delete", "replace", "swap", "duplicate", "indent", "word"]))
        if edit in ("insert", "replace"):
            piece = draw(st.one_of(st.sampled_from(PIECES), st.characters(codec="utf-8")))
            text = text[:place] + piece + text[place + (edit == "replace") :]
        elif edit == "delete":
            text = text[:place] + text[place + draw(st.integers(1, 20)) :]
        elif edit == "word":  # in the place of another
            words = text.split(" ")
            words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(words + PIECES))
            text = " ".join(words)
        else:
            if edit == "swap":
                lines[first], lines[second] = lines[second], lines[first]
            elif edit == "duplicate":
                lines.insert(second, lines[first])
            else:
                lines[first] = draw(st.sampled_from(["", " ", "\t", "      "])) + lines[first].lstrip(" ")
            text = "".join(lines)
    return text


@settings(max_examples=300)
@given(mutated())
def test_no_mutation_of_a_valid_file_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_text(text, encoding="utf-8")
    problems: tuple[str, ...] = ()
    try:
        sf.Schema.from_yaml(path)
    except SchemaError as reason:
        problems = reason.problems
    places = [re.match(re.escape(str(path)) + r":((\d+):(\d+):)? ", problem) for problem in problems]
    assert all(places)
    assert not any("\n" in problem for problem in problems)
    lines = [(int(it[2]), int(it[3])) if it and it[1] else (0, 0) for it in places]
    assert lines == sorted(lines)


@pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="PyYAML was built without libyaml")
@settings(max_examples=200)
@given(mutated())
def test_libyaml_and_pyyaml_read_alike(text: str) -> None:
    results = []
    for swift in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yaml, "__with_libyaml__", swift)
            parsed = load(text, "s.yaml")
            results.append((repr(parsed.data), parsed.error(SchemaError).problems))
    if not any("not valid YAML" in str(problems) for _, problems in results):  # libyaml lets some odd words pass: f? g
        assert results[0] == results[1]


def test_mistakes_of_the_towers_are_told_with_the_others_at_their_lines(tmp_path: Path) -> None:
    from schemaflow.schema.grammar import read_parts

    path = tmp_path / "shop.yaml"
    path.write_text(
        "version: 1\nfeatures:\n"
        "  i: {dtype: int64, tags: [item, id], cardinality: 9}\n"
        "  j: {dtype: int64, tags: [item, id], cardinality: 9}\n"
        "  w: {dtype: float32, tags: [weight]}\n"
        "  v: {dtype: float32, tags: [weight]}\n"
        "  x: {dtype: strng, tags: [user]}\n"
        "  z: {dtype: string, hash: 3}\n",
        encoding="utf-8",
    )
    with pytest.raises(SchemaError) as caught:
        read_parts(path, towers=True)
    found = [problem.removeprefix(f"{path}:") for problem in caught.value.problems]
    assert [it.split(": ")[0] for it in found] == ["4:3", "6:3", "7:7", "8:3"]
    assert found[0].endswith('expected one feature tagged item and id, which tells the items apart; found "i" and "j"')
    assert found[1].endswith('features "w" and "v" are both tagged weight; an interaction has one')
    assert found[3].endswith(
        'feature "z" is categorical but on no side, so nothing would read it; tag it user, item or context'
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  a: {dtype: string, tags: [item, id], hash: 9999999999}", "hash"),
        ("  a: {dtype: int64, tags: [item, id], cardinality: 99999999999}", "cardinality"),
        ("  a: {dtype: string, tags: [target]}", "is tagged target but has dtype string; a target is a number"),
        ("  a: {dtype: int8, tags: [target, position]}", "is tagged both target and position; keep one"),
    ],
)
def test_more_than_can_be(line: str, expected: str, tmp_path: Path) -> None:
    (problem,) = problems_of(f"{HEAD}{line}\n", tmp_path)
    assert expected in problem
