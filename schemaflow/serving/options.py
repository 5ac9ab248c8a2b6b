"""How a bundle is served: the limits of a request, how requests are answered together, how often the bundle is looked at."""

from dataclasses import dataclass, fields

from schemaflow.errors import ConfigError

__all__ = ["ServeOptions"]


@dataclass(frozen=True)
class ServeOptions:
    """The limits and the pace of a server.

    Args:
        max_body: Of a request, in bytes.
        max_rows: Of a request: queries, or items to find similar ones of.
        max_k: Items for each row.
        max_list: Values of a list feature in a row, where the schema gives no `max_length`; values of a filter.
        max_exclude: Ids to exclude for each row, or to allow.
        max_connections: Open at a time; one more is refused with 503.
        max_batch: Rows that are answered in one call of the graph; 1 answers each request by itself.
        max_wait: Milliseconds that a request waits for company while a thread is idle. With 0 those are answered
            together that arrived while the graph was busy.
        threads: Calls of the graph at a time.
        poll: Seconds between two looks for a newer bundle.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        >>> ServeOptions(max_k=50).max_k
        50
    """

    max_body: int = 4_194_304
    max_rows: int = 256
    max_k: int = 1000
    max_list: int = 1000
    max_exclude: int = 10_000
    max_connections: int = 1000
    max_batch: int = 64
    max_wait: float = 0.0
    threads: int = 2
    poll: float = 2.0

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            value, least = (
                getattr(self, field.name),
                0 if field.name == "max_wait" else 0.01 if field.name == "poll" else 1,
            )
            if not least <= value < float("inf"):
                problems.append(f"{field.name} is {value}; expected at least {least}")
        if problems:
            raise ConfigError(*problems)
