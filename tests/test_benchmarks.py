"""What the benchmarks say of what they found; the measuring itself is no test."""

import sys
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)  # as it is where one of them is run


@pytest.fixture
def record() -> ModuleType:
    return import_module("record")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The command, in a folder of its own with the topic "growth", whose rounds are in growth.txt."""
    module = import_module("run")
    for name, value in {"FOLDER": tmp_path, "RESULTS": tmp_path / "it.json", "PAGE": tmp_path / "it.md"}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_topic.py").write_text("def measure(folder):\n    raise AssertionError\n", encoding="utf-8")
    (tmp_path / "growth.py").write_text(GROWTH, encoding="utf-8")
    return module


GROWTH = '''"""How a step grows with its table.

More of it.
"""
from pathlib import Path
from figures import Figure

def measure(rounds=5):
    found = [float(it) for it in Path(__file__).with_suffix(".txt").read_text().split()]
    return [Figure("large | small", found[:rounds], 1.2, False, "1 ms")]
'''


def figure(*rounds: float, name: str = "ratio", at_least: bool = True) -> Any:
    return import_module("figures").Figure(name, rounds, 3.5, at_least)


def test_a_figure_is_held_against_its_bar_by_its_median() -> None:
    assert figure(1, 3.5, 9).reached
    assert not figure(1, 3.4, 9).reached
    assert figure(1, 3.5, 9, at_least=False).reached
    assert not figure(1, 3.6, 9, at_least=False).reached


@pytest.mark.parametrize(
    ("now", "at_least", "said"),
    [
        (4.2, True, None),  # outside 3.9 to 4.1, but 5% from 4
        (4.6, True, None),  # 15% and no more
        (4.8, True, "better: ratio: 4 before, 4.8 now (+20%)"),
        (3.0, True, "worse: ratio: 4 before, 3 now (-25%)"),
        (4.8, False, "worse: ratio: 4 before, 4.8 now (+20%)"),
        (3.0, False, "better: ratio: 4 before, 3 now (-25%)"),
    ],
)
def test_a_ratio_moves_beyond_15_percent_of_the_recorded_median(
    record: ModuleType, now: float, at_least: bool, said: str | None
) -> None:
    moved = record.moves([figure(3.9, 4, 4.1, at_least=at_least)], [figure(1, now, 9, at_least=at_least)])
    assert [str(it) for it in moved] == ([] if said is None else [said])
    assert [it.worse for it in moved] == ([] if said is None else [said.startswith("worse")])


def test_a_ratio_that_the_recorded_rounds_reached_too_has_not_moved(record: ModuleType) -> None:
    before = [figure(2, 4, 4.1)]
    assert not record.moves(before, [figure(2, 2, 2)])
    assert len(record.moves(before, [figure(1.9, 1.9, 1.9)])) == 1


def test_ratios_are_told_apart_by_name(record: ModuleType) -> None:
    before = [figure(1, name="gone"), figure(2, name="stays"), figure(8, name="moves")]
    now = [figure(4, name="moves"), figure(2, name="stays"), figure(1, name="new")]
    assert [(it.figure.name, it.before) for it in record.moves(before, now)] == [("moves", 8)]
    with pytest.raises(ValueError, match="several figures are called ratio"):
        record.Topic("", "", "", "", [figure(1), figure(2)])


def test_what_was_a_zero_moves_without_a_share(record: ModuleType) -> None:
    (move,) = record.moves([figure(0)], [figure(1)])
    assert str(move) == "better: ratio: 0 before, 1 now"


def test_a_record_is_read_as_it_was_written(record: ModuleType, tmp_path: Path) -> None:
    topic = record.Topic("Reading.", "2026-01-02", "2 cores", "Python 3", [figure(1, 2, 3)], ["worse: …"])
    assert record.read(tmp_path / "it.json") == {}
    record.write(tmp_path / "it.json", {"reading": topic})
    (found,) = record.read(tmp_path / "it.json").values()
    assert (found.figures[0].median, *map(list, (found.figures[0].rounds, found.moved))) == (2, [1, 2, 3], ["worse: …"])
    assert record.page({"reading": found}) == record.page({"reading": topic})


def test_the_page_says_where_a_topic_was_measured_elsewhere(record: ModuleType) -> None:
    old = record.Topic("Reading.", "2026-01-02", "2 cores", "Python 3", [figure(1, 2, 3)])
    new = record.Topic("Steps.", "2026-02-03", "4 cores", "Python 3", [figure(4)], ["better: …"])
    page = record.page({"reading": old, "step": new})
    assert page.count("Machine: 4 cores") == page.count("Machine: 2 cores") == page.count("Versions: Python 3") == 1
    assert page.index("## reading") < page.index("Machine: 2 cores") < page.index("## step")
    assert "| ratio | 2 | ≥ 3.5 | 3, from 1 to 3 |  | **missed** |" in page
    assert (
        "| ratio | 4 | ≥ 3.5 | 1, from 4 to 4 |  | reached |\n\nMoved since the last record:\n\n- better: …\n" in page
    )


def test_the_command_compares_with_the_last_record_and_keeps_other_topics(
    run: ModuleType, record: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.topics() == ["growth"]
    kept = record.Topic("Kept.", "2026-01-02", run.machine(), "older", [figure(9, name="kept")])
    record.write(tmp_path / "it.json", {"kept": kept})
    rounds = tmp_path / "growth.txt"

    rounds.write_text("1.0 1.01 0.99", encoding="utf-8")
    assert run.main([]) == 0
    assert "The first record." in capsys.readouterr().out
    page = (tmp_path / "it.md").read_text(encoding="utf-8")
    assert "How a step grows with its table. Measured on " in page
    assert r"| large \| small | 1 | ≤ 1.2 | 3, from 0.99 to 1.01 | 1 ms | reached |" in page
    assert "| kept | 9 |" in page

    rounds.write_text("1.18", encoding="utf-8")  # below its bar, and worse
    assert run.main(["--check", "growth"]) == 1
    worse = "worse: large | small: 1 before, 1.18 now (+18%)"
    assert worse in capsys.readouterr().out
    assert (tmp_path / "it.md").read_text(encoding="utf-8") == page

    assert run.main(["growth", "--rounds", "1"]) == 1
    assert f"- {worse}\n" in (tmp_path / "it.md").read_text(encoding="utf-8")
    assert run.main(["growth"]) == 0  # what is recorded is what it is compared with
    assert "Nothing moved" in (tmp_path / "it.md").read_text(encoding="utf-8")

    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "again.py").write_text(GROWTH, encoding="utf-8")
    (tmp_path / "group" / "again.txt").write_text("1.1", encoding="utf-8")
    assert run.main(["group"]) == 0  # every topic of a folder
    assert list(record.read(tmp_path / "it.json")) == ["group/again", "growth", "kept"]

    rounds.write_text("1.3", encoding="utf-8")  # 10% from the record, but above its bar
    assert run.main(["growth"]) == 1
    assert "**missed**" in (tmp_path / "it.md").read_text(encoding="utf-8")


def test_a_topic_that_fails_leaves_its_record(
    run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "growth.txt").write_text("1.0", encoding="utf-8")
    assert run.main([]) == 0
    before = (tmp_path / "it.json").read_text(encoding="utf-8")
    (tmp_path / "growth.txt").write_text("much", encoding="utf-8")
    assert run.main([]) == 1
    said = capsys.readouterr().err
    assert "growth was not measured: " in said
    assert said.rstrip().endswith("could not convert string to float: 'much'")
    assert (tmp_path / "it.json").read_text(encoding="utf-8") == before
    with pytest.raises(SystemExit):
        run.main(["grwth"])
    assert "unknown topic grwth (known: growth)" in capsys.readouterr().err


def wheel(folder: Path) -> Path:
    """Write a package of one module, peer, as pip takes it from a file."""
    file, info = folder / "peer-1-py3-none-any.whl", "peer-1.dist-info"
    texts = {
        "peer.py": "NAME = 'peer'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: peer\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in {**texts, f"{info}/RECORD": "".join(f"{name},,\n" for name in texts)}.items():
            archive.writestr(name, text)
    return file


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Peers whose one environment, "bare", needs a Python like ours and a package of one module."""
    module = import_module("peers")
    monkeypatch.setenv("SCHEMAFLOW_PEER_ENVIRONMENTS", str(tmp_path / "environments"))
    monkeypatch.setenv("SCHEMAFLOW_PEERS", str(tmp_path))
    own = ".".join(map(str, sys.version_info[:2]))
    needs = {"bare": module.Environment(own, (str(wheel(tmp_path)),)), "gone": module.Environment("2.99", ())}
    monkeypatch.setattr(module, "ENVIRONMENTS", needs)
    (tmp_path / "say.py").write_text(
        "import json, sys, peer\nprint('noise')\nprint(json.dumps([sys.prefix, peer.NAME, *sys.argv[1:]]))\n",
        encoding="utf-8",
    )
    (tmp_path / "fail.py").write_text("raise SystemExit('out of films')\n", encoding="utf-8")
    return module


def test_a_peer_runs_in_an_environment_that_is_made_once_and_whole(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good, environment = peers.ENVIRONMENTS["bare"], tmp_path / "environments" / "bare"
    monkeypatch.setitem(peers.ENVIRONMENTS, "bare", peers.Environment(good.python, ("./not-there",)))
    with pytest.raises(peers.PeerError, match=r"the environment of bare cannot be made; (.|\n)*not-there"):
        peers.run("bare", "say.py")
    assert (environment / "bin" / "python").exists()  # half of it, which is not taken for the whole
    monkeypatch.setitem(peers.ENVIRONMENTS, "bare", good)
    assert peers.run("bare", "say.py", 3, "x") == [str(environment), "peer", "3", "x"]
    (environment / "sign").touch()
    assert peers.run("bare", "say.py") == [str(environment), "peer"]
    assert (environment / "sign").exists()
    with pytest.raises(peers.PeerError, match="got exit code 1 and\nout of films"):
        peers.run("bare", "fail.py")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("gone", "say.py"), "gone needs Python 2.99: put python2.99 on the PATH, or install it with pyenv"),
        (("none", "say.py"), "'none' is no environment of a peer; there are bare, gone"),
        (("bare", "sya.py"), "no sya.py in .*; set SCHEMAFLOW_PEERS to the folder that holds it"),
    ],
)
def test_what_a_peer_lacks_is_said(peers: ModuleType, asked: tuple[str, str], said: str) -> None:
    with pytest.raises(peers.PeerError, match=said):
        peers.run(*asked)


def test_each_script_of_a_peer_stands_alone() -> None:
    for script in sorted((FOLDER / "peer_scripts").glob("*.py")):
        compile(script.read_text(encoding="utf-8"), str(script), "exec")
        assert "schemaflow" not in script.read_text(encoding="utf-8")
