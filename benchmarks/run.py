"""All benchmarks in one command: what they find, beside what they found last.

    python benchmarks/run.py                        # all topics
    python benchmarks/run.py tables reading         # these; the others keep what was recorded of them
    python benchmarks/run.py systems                # all of the folder systems
    python benchmarks/run.py --check startup        # compare with the record, and leave it as it is

A topic is a file of this folder or of one in it, with `measure(rounds)`. Each is measured in a process of its own, so that
none finds the memory and the threads of another. Writes RESULTS.md, for people, and results.json, which the next run is
compared with. Exits with 1 where a bar is missed, a ratio is worse than the recorded one, or a topic could not be measured.
"""

import argparse
import datetime
import importlib
import inspect
import os
import platform
import re
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import peers
import record
from figures import ROUNDS, Figure, report

FOLDER = Path(__file__).parent
RESULTS, PAGE = FOLDER / "results.json", FOLDER / "RESULTS.md"
LIBRARIES = ("tensorflow", "keras", "pyarrow", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compare, record, and return the exit code."""
    known = topics()
    parser = argparse.ArgumentParser(description="Measure, and compare with what was recorded last.")
    parser.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(known)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each side is measured")
    parser.add_argument("--check", action="store_true", help="record nothing")
    asked = parser.parse_args(arguments)
    groups = {name.partition("/")[0] for name in known}
    if unknown := set(asked.topics) - {*known, *groups}:
        parser.error(f"unknown topic {', '.join(sorted(unknown))} (known: {', '.join(known)})")
    if asked.rounds < 1:
        parser.error(f"--rounds is {asked.rounds}; expected at least 1")

    recorded, failed, where = record.read(RESULTS), False, (machine(), versions())
    for name in known if not asked.topics else [it for it in known if {it, it.partition("/")[0]} & set(asked.topics)]:
        print(f"\n{name}", flush=True)
        try:
            title, figures = in_own_process(name, asked.rounds)
        except (Exception, SystemExit) as error:  # the other topics can be measured all the same
            explained = isinstance(error, (peers.PeerError, SystemExit))
            reason = error if explained else "".join(traceback.format_exception(error))
            print(f"{name} was not measured: {reason}", file=sys.stderr)
            failed = True
            continue
        failed |= bool(report(figures))
        found = record.moves(recorded[name].figures, figures) if name in recorded else []
        moved = [str(move) for move in found] if name in recorded else None
        if moved and recorded[name].machine != where[0]:
            moved.append(f"the record before is of another machine: {recorded[name].machine}")
        print(*record.outcome(moved), sep="\n")
        failed |= any(move.worse for move in found)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        recorded[name] = record.Topic(title, today, *where, figures, moved)
        if not asked.check:  # after each topic: a run of hours may be stopped
            record.write(RESULTS, recorded)
            PAGE.write_text(record.page(recorded), encoding="utf-8")
    return int(failed)


def topics() -> list[str]:
    """Return the names of the files that can be measured, such as "tables" and "systems/position"."""
    return sorted(
        file.relative_to(FOLDER).with_suffix("").as_posix()
        for file in FOLDER.rglob("*.py")
        if re.search(r"^def measure\(rounds\b", file.read_text("utf-8"), re.M)
    )


def in_own_process(topic: str, rounds: int) -> tuple[str, list[Figure]]:
    """Return the first line of a topic's docstring, and its figures."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measured, topic, rounds).result()


def measured(topic: str, rounds: int) -> tuple[str, list[Figure]]:
    """Return the first line of a topic's docstring, and its figures, measured in this process."""
    module = importlib.import_module(topic.replace("/", "."))
    return (inspect.getdoc(module) or topic).partition("\n")[0], module.measure(rounds)


def machine() -> str:
    """Return what the machine is: "2 cores of Some CPU, 24 GB"."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{os.cpu_count()} cores of {name[1] if name else platform.machine()}, {memory / 1e9:.0f} GB"


def versions() -> str:
    """Return the versions of Python, of what we stand on, and of the peers that are installed."""
    ours = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in LIBRARIES)]
    theirs = [f"beside {name}: {', '.join(found)}" for name in peers.ENVIRONMENTS if (found := peers.versions(name))]
    return "; ".join([", ".join(ours), *theirs])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    sys.exit(main())
