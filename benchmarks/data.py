"""Where the benchmarks' data are."""

import os
from pathlib import Path

__all__ = ["data_folder"]

FOLDER = Path(os.environ.get("SCHEMAFLOW_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def data_folder(name: str) -> Path:
    """Return the folder of a data set, "ml-100k"; the process ends where it is not there.

    It is looked for in $SCHEMAFLOW_DATA, or in `../shared/data` beside the repository where that is not set.
    """
    folder = FOLDER / name
    if not (folder / "interactions.parquet").exists():
        raise SystemExit(
            f"{name} may not be redistributed: put it at {folder}, or set SCHEMAFLOW_DATA to what holds it"
        )
    return folder
