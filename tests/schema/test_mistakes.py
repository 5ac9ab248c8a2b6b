"""Every mistake in a schema file ends in one line that says where it is and what to do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import SchemaError, SchemaFlowError

pytestmark = pytest.mark.short

HEAD = "version: 1\nfeatures:\n"
GOOD = "  item_id: {dtype: int64, tags: [item, id], cardinality: 9}\n"


def problems_of(text: str, folder: Path) -> list[str]:
    path = folder / "shop.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SchemaError) as caught:
        sf.Schema.from_yaml(path)
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
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
        ("  a: {dtype: int64, tags: [item, filter, id], cardinality: 9}", '3:3: feature "a" is tagged filter, which nothing reads yet'),
        ("  a: {dtype: string, tags: [item, id], vocabulary: []}", '3:3: feature "a" has an empty vocabulary'),
        ("  a: {dtype: int8, tags: [item, id], vocabulary: [300]}", '3:3: feature "a" has dtype int8 but 300 in its vocabulary'),
        ("  a: &x {dtype: int64, tags: [item, id], cardinality: 9, list: *x}", "3:58: an alias (*name) is not supported"),
        ("  a: {dtype: int64, tags: [item, id], vocabulary: learnt}", '3:39: "vocabulary" in feature "a": expected \'learned\', received "learnt"; did'),
        ("  a: {dtype: string, tags: [item, id], vocabulary: [yes, no]}", '3:40: feature "a": "vocabulary": expected learned'),
        ("  a: {dtype: int64, tags: [3], cardinality: 9}", '3:28: feature "a": unknown tag 3; a tag is a word'),
        ("  ? [a, b]\n  : {dtype: int64}", "3:5: expected a name as the key, received a list or keys and values"),
        ("  a: {dtype: !foo x}", "not a value"),
        ("  a: " + "[" * 3000, "nested too deeply"),
        ("  a: 3", '3:3: "a" in "features": expected keys and values, received 3'),
        ("  a: {dtype: int64", "not valid YAML"),
    ],
)  # fmt: skip
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


MOVIELENS = (Path(__file__).parents[2] / "schemas" / "movielens_100k.yaml").read_text(encoding="utf-8")


@given(
    st.integers(0, len(MOVIELENS) - 1),
    st.sampled_from(["", "x", "[", "}", ":", " ", "\n", "- ", "\t", "&a ", "1", "!", "*"]),
)
def test_no_mutation_of_a_valid_file_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, place: int, inserted: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_text(MOVIELENS[:place] + inserted + MOVIELENS[place + 1 :], encoding="utf-8")
    problems: tuple[str, ...] = ()
    try:
        sf.Schema.from_yaml(path)
    except SchemaFlowError as reason:
        problems = reason.problems
    assert all(problem.startswith(str(path)) for problem in problems)
