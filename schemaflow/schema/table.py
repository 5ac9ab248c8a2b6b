"""A side table: what is known of each user or item."""

from pydantic import StrictStr

from schemaflow.schema.document import Document

__all__ = ["SideTable"]


class SideTable(Document):
    """A table with one row for each user or item, joined to the interactions by id.

    Args:
        file: The Parquet file or folder, beside the interactions.
        key: The id feature it is joined by.
    """

    file: StrictStr
    key: StrictStr
