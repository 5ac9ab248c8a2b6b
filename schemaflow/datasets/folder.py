"""A folder of generated data."""

from dataclasses import dataclass
from pathlib import Path

from schemaflow.errors import ConfigError

__all__ = ["DataFolder", "made_folder", "names"]


@dataclass(frozen=True)
class DataFolder:
    """A folder of Parquet files and the schema that describes them."""

    folder: Path

    @property
    def schema(self) -> Path:
        """The schema file."""
        return self.folder / "schema.yaml"

    @property
    def interactions(self) -> Path:
        """One row for each interaction, in the order of time."""
        return self.folder / "interactions.parquet"

    @property
    def users(self) -> Path:
        """One row for each user."""
        return self.folder / "users.parquet"

    @property
    def items(self) -> Path:
        """One row for each item."""
        return self.folder / "items.parquet"


def made_folder(folder: str | Path) -> Path:
    """Return a folder that is there now.

    Raises:
        ConfigError: It cannot be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise ConfigError(f"{path}: no data can be written there: {reason.strerror}; name another folder") from None
    return path


def names(letter: str, count: int) -> list[str]:
    """Return so many ids, whose digits are their rows.

    Example:
        >>> names("u", 2)
        ['u00000', 'u00001']
    """
    return [f"{letter}{number:05d}" for number in range(count)]
