"""A side table: what is known of each user or item."""

from pydantic import StrictStr

from schemaflow.schema.document import Document
from schemaflow.schema.feature import Feature
from schemaflow.schema.sources import Source, TableLike, open_source

__all__ = ["SideTable"]


class SideTable(Document):
    """A table with one row for each user or item, joined to the interactions by id.

    Args:
        file: The Parquet file or folder, beside the interactions.
        key: The id feature it is joined by.
        column: The key's column in the file, where it has another name than in the interactions. So may several tables be
            of one file, each for another side.
    """

    file: StrictStr
    key: StrictStr
    column: StrictStr | None = None

    def open(self, table: TableLike, key: Feature) -> Source:
        """Return the table as a source whose key has the name that it has in the interactions.

        Raises:
            DataError: It cannot be opened, or has no such column.
        """
        source = open_source(table)
        if self.column is None:
            return source
        source.require(self.column, f'feature "{key.name}", by which it is joined,')
        return source.renamed(self.column, key.source)
