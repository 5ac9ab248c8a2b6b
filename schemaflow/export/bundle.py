"""Bundles: a directory that holds a served recommender.

- `manifest.json`: format, versions, the schema's fingerprint, the features, the index, and a hash of every other file.
- `schema.yaml` and `schema.fitted/`: the schema and its vocabularies.
- `model/`: the SavedModel, both towers, the index and the filters, on raw features.
- `items.parquet`: the items' raw columns, in the index's order.
- `report.json`: what the evaluation said, where there was one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import BundleError

__all__ = ["ITEMS", "MANIFEST", "MODEL", "REPORT", "SCHEMA", "check_target", "read_manifest", "writing"]

FORMAT = 2
"""Of bundles: a loader refuses another."""

MANIFEST, SCHEMA, MODEL, ITEMS, REPORT = "manifest.json", "schema.yaml", "model", "items.parquet", "report.json"

_KEYS = frozenset(
    {"schema", "query_features", "item_features", "filters", "item_id", "k", "index", "versions", "files"}
)


def check_target(path: str | Path) -> Path:
    """Return the folder to write a bundle to, its parents made.

    Raises:
        BundleError: There is something at `path` that is no bundle, or nothing can be written there.
    """
    folder = Path(path).resolve()  # of a link, what it leads to
    try:
        if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise BundleError(f"{folder}: there is something there that is no bundle; name another folder or remove it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        probe = _beside(folder, "probe")
        probe.mkdir()
        probe.rmdir()
    except OSError as reason:
        raise BundleError(f"{folder}: no bundle can be written there: {reason.strerror}; name another folder") from None
    return folder


@contextmanager
def writing(path: str | Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """Give a folder to write a bundle's files to, which then becomes the bundle at `path`, with its manifest.

    It stands under a temporary name beside `path` and is renamed at the end, so that a reader never sees half a bundle.
    An older bundle at `path` is replaced. What a process that was killed left of an older attempt is removed.

    Args:
        path: Where the bundle is to be.
        manifest: What it says beside format, versions and files.

    Raises:
        BundleError: There is something else at `path`.
    """
    folder = check_target(path)
    temporary, old = _beside(folder, "new"), _beside(folder, "old")
    try:
        temporary.mkdir()
        yield temporary
        whole = {
            "format": FORMAT,
            "versions": _versions(),
            **manifest,
            "files": {name: _hash(temporary / name) for name in _files(temporary)},
        }
        (temporary / MANIFEST).write_text(json.dumps(whole, indent=1, ensure_ascii=False), encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    except OSError as reason:
        raise BundleError(f"{folder}: cannot be written: {reason.strerror}; name another folder") from None
    finally:
        if not folder.exists() and old.exists():
            old.rename(folder)
        # where there is no bundle, what is left is the only one
        for left in (temporary, *([old, *_leftovers(folder)] if folder.exists() else [])):
            shutil.rmtree(left, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a bundle says, once all its files are what it says.

    Raises:
        BundleError: There is no bundle, it is of another format or of newer versions, or its files are not those that
            were written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder}: there is no bundle (no {MANIFEST}); write one with model.export(…)") from None
    except (OSError, ValueError) as reason:
        raise BundleError(f"{folder / MANIFEST}: cannot be read ({reason}); export the model again") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"{folder}: the bundle has format {found}, this version reads {FORMAT}; export the model again"
        )
    if missing := _KEYS - manifest.keys():
        raise BundleError(f"{folder / MANIFEST}: {', '.join(sorted(missing))} is missing; export the model again")
    here = _versions()
    for name in ("schemaflow", "tensorflow"):  # the SavedModel does without Keras
        written = str(manifest["versions"].get(name))
        if _release(written) > _release(here[name]) or _release(written)[0] != _release(here[name])[0]:
            raise BundleError(
                f"{folder}: the bundle was written with {name} {written}, which {name} {here[name]} cannot be trusted to"
                f" read; install {name} {written} or export the model again"
            )
    _check_files(folder, manifest["files"])
    return manifest


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Raise `BundleError` unless a bundle's files are those of its manifest."""
    there = set(_files(folder)) - {MANIFEST}
    changed = [name for name in sorted(there & files.keys()) if _hash(folder / name) != files[name]]
    wrong = [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {what}"
        for what, names in (
            ("missing", sorted(files.keys() - there)),
            ("not in its manifest", sorted(there - files.keys())),
            ("changed", changed),
        )
        if names
    ]
    if wrong:
        raise BundleError(f"{folder}: {'; '.join(wrong)}, since the bundle was written; export the model again")


def _versions() -> dict[str, str]:
    return {"schemaflow": version("schemaflow"), "tensorflow": tf.__version__, "keras": keras.__version__}


def _release(written: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; a third one changes no format."""
    return tuple(int(it) if it.isdecimal() else 0 for it in (*written.split("."), "0")[:2])


def _files(folder: Path) -> list[str]:
    return sorted(it.relative_to(folder).as_posix() for it in folder.rglob("*") if not it.is_dir())


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _beside(folder: Path, what: str) -> Path:
    """Return a name beside a folder, which tells whose it is."""
    return folder.parent / f".{folder.name}.{os.getpid()}.{what}"


def _leftovers(folder: Path) -> Iterator[Path]:
    """Yield what processes that are no more left beside a folder."""
    for path in folder.parent.iterdir():
        name, _, rest = path.name.rpartition(f".{folder.name}.")
        pid, _, what = rest.partition(".")
        if not name and what in ("new", "old", "probe") and pid.isdecimal() and not _runs(int(pid)):
            yield path


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
