"""Peer libraries, each measured by a script in a virtual environment of its own.

    >>> peers.run("tfrs", "tfrs_eval.py", 2048, 20_000, 32)["seconds"]  # doctest: +SKIP

A script is looked for in benchmarks/peer_scripts, then in $SCHEMAFLOW_PEERS (`../shared/peers` beside the repository, where
that is not set). Environments are made once, from the package index, and kept in $SCHEMAFLOW_PEER_ENVIRONMENTS, else in
the user's cache directory.

    python benchmarks/peers.py [tfrs] [keras] [merlin]     # makes these environments, or all: some minutes and 2 GB each
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

__all__ = ["ENVIRONMENTS", "Environment", "PeerError", "run", "versions"]

ROOT = Path(__file__).parent.parent
OWN_SCRIPTS = ROOT / "benchmarks" / "peer_scripts"


class PeerError(Exception):
    """A peer could not be measured; says what to do."""


@dataclass(frozen=True)
class Environment:
    """What a peer needs.

    Args:
        python: Version of the interpreter, "3.11".
        requirements: For pip, the libraries to be compared pinned.
    """

    python: str
    requirements: tuple[str, ...]


ENVIRONMENTS = {
    "tfrs": Environment(
        "3.11", ("tensorflow==2.20.0", "tf-keras==2.20.1", "tensorflow-recommenders==0.7.7", "pyarrow")
    ),
    "keras": Environment("3.11", ("tensorflow==2.20.0", "keras-rs==0.4.0")),
    "merlin": Environment(
        "3.10",
        (
            "tensorflow==2.12.1", "merlin-models==23.12.0", "merlin-core==23.8.0", "merlin-dataloader==23.8.0",
            "dask-cuda==23.12.0", "dask==2023.11.0", "numpy<1.25", "pyarrow<16", "setuptools<70",
        ),
    ),
}  # fmt: skip


def run(environment: str, script: str, *arguments: object) -> dict[str, Any]:
    """Return what a script prints of a peer: the JSON object that is the last line of its output.

    Args:
        environment: A key of `ENVIRONMENTS`; it is made where it is not there yet.
        script: Name of the script's file.
        *arguments: Its arguments, given as text.

    Raises:
        PeerError: There is no such script or interpreter, the environment cannot be made, or the script fails.
    """
    file = _script(script)
    command = [str(_interpreter(environment)), str(file), *map(str, arguments)]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # ours is of another Python
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise PeerError(
            f"{' '.join(command)}: expected one JSON line and exit code 0, got exit code {done.returncode} and\n"
            f"{_end(done.stdout + done.stderr)}"
        )
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def versions(environment: str) -> list[str]:
    """Return what an environment holds of its pinned libraries and Keras, "keras 3.15.1"; nothing where it is not made."""
    folders = list((_folder() / environment).glob("lib/python*/site-packages"))
    pinned = {text.partition("==")[0] for text in ENVIRONMENTS[environment].requirements if "==" in text}
    found = (
        {it.name.replace("_", "-"): it.version for it in distributions(path=list(map(str, folders)))} if folders else {}
    )
    return [f"{name} {found[name]}" for name in sorted({*pinned, "keras"}) if name in found]


def _script(name: str) -> Path:
    given = Path(os.environ.get("SCHEMAFLOW_PEERS", ROOT.parent / "shared" / "peers"))
    for folder in (OWN_SCRIPTS, given):
        if (folder / name).is_file():
            return folder / name
    raise PeerError(f"no {name} in {OWN_SCRIPTS} or {given}; set SCHEMAFLOW_PEERS to the folder that holds it")


def _interpreter(name: str) -> Path:
    """Return the Python of a whole environment; make it where there is none or a part."""
    if name not in ENVIRONMENTS:
        raise PeerError(f"{name!r} is no environment of a peer; there are {', '.join(ENVIRONMENTS)}")
    wanted, folder = ENVIRONMENTS[name], _folder() / name
    python, mark = folder / "bin" / "python", folder / "requirements.txt"
    text = "\n".join([f"# Python {wanted.python}", *wanted.requirements, ""])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not (mark.is_file() and mark.read_text(encoding="utf-8") == text and python.exists()):
            _make(name, wanted, folder)
            mark.write_text(text, encoding="utf-8")  # last: what has no mark, or another, is made anew
    return python


def _make(name: str, wanted: Environment, folder: Path) -> None:
    base = _base(wanted.python)
    if base is None:
        raise PeerError(
            f"{name} needs Python {wanted.python}: put python{wanted.python} on the PATH, or install it with pyenv"
        )
    print(f"making the environment of {name} in {folder}", file=sys.stderr, flush=True)
    venv = [base, "-m", "venv", "--clear", "--without-pip", str(folder)]
    pip = [base, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    for command in (venv, [*pip, "--disable-pip-version-check", *wanted.requirements]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError(
                f"the environment of {name} cannot be made; mend what pip says, or the network, and run it again:\n"
                f"{' '.join(command)}\n{_end(done.stdout + done.stderr)}"
            )


def _base(version: str) -> str | None:
    """Return a Python of a version that runs: pyenv has a shim for each on the PATH, whether it runs or not."""
    own = [sys.executable] if version == f"{sys.version_info[0]}.{sys.version_info[1]}" else []
    installed = sorted(map(str, (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")))
    for candidate in (*own, f"python{version}", *installed):
        try:
            subprocess.run([candidate, "--version"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    return None


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SCHEMAFLOW_PEER_ENVIRONMENTS") or cache / "schemaflow-peers")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one process at a time make an environment."""
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _end(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-20:])


if __name__ == "__main__":
    try:
        for chosen in sys.argv[1:] or ENVIRONMENTS:
            print(_interpreter(chosen))
    except PeerError as error:
        sys.exit(str(error))
