"""What a name hints at: a side, a role, a number or a code. Guesses, for a draft that a person reads over."""

import keyword
import re
import unicodedata
from collections.abc import Iterable

from schemaflow.schema.rules import NAME, RESERVED_NAMES
from schemaflow.schema.tags import Tags

__all__ = ["Hints", "legal_name", "words_of"]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SIDES = {
    Tags.USER: _set(
        "user customer client member visitor buyer shopper account person people reader viewer listener subscriber"
        " player reviewer rater follower uid"
    ),
    Tags.ITEM: _set(
        "item product article movie film book song track artist video game anime recipe listing offer business venue poi"
        " restaurant hotel location news story post ad sku asin isbn merchandise iid"
    ),
    Tags.SESSION: _set("session visit basket cart"),
}
_SIDE_OF = {word: side for side, words in _SIDES.items() for word in words}

_ID = _set("id uuid guid key code no nr number hash identifier uid iid sku asin")
_HISTORY = _set("history past recent clicked viewed bought watched seen liked previous last sequence")
_NUMBER = _set(
    "age year price cost amount count num quantity qty duration length size weight height width score rating average avg"
    " mean sum total vote view minute second income revenue popularity distance lat latitude lon lng longitude percent"
    " share ratio rate"
)
_CODE = _set(
    "id code category type kind class genre group gender sex bucket bucketized bin zip zipcode postcode status flag device"
    " country city region state language brand cluster segment occupation is has weekday month hour dow"
)
_RATING = _set("rating star score grade")
_AGGREGATE = _set("average avg mean count propensity")
_BINARY = _set(
    "click clicked purchase purchased buy bought like liked label target convert converted conversion watched saved"
    " played added ordered subscribed favorite favourite installed booked"
)
_OUTCOME = _set(
    "price cost amount revenue quantity qty duration dwell spent total sale discount play view listen count completion"
)
_LATER = _set("next after future following")
_KNOWN = _set(
    "device country city region state hour weekday day dow month season holiday platform channel os browser language"
    " locale campaign placement page query search keyword referrer referer source medium weather temperature app version"
    " store market network screen position domain site"
)
_ACTION = _set("event action behavior behaviour")
_TIME = _set("timestamp time ts date datetime created updated at epoch unix when day")
_APART = _set("split fold partition subset index idx row rownum seq propensity")


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name, in small letters and the singular.

    Example:
        >>> words_of("userID"), words_of("target_item_ids"), words_of("Release Dates"), words_of("news_id")
        (('user', 'id'), ('target', 'item', 'id'), ('release', 'date'), ('news', 'id'))
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W_]+", parted.casefold())
    return tuple(_singular(word) for word in words)


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies") and word not in ("movies", "series"):
        return word[:-3] + "y"
    return (
        word[:-1]
        if len(word) > 2 and word != "news" and word.endswith("s") and not word.endswith(("ss", "us", "is", "as"))
        else word
    )


def _apart(word: str) -> tuple[str, ...]:
    """Take `userid` apart."""
    return (word[:-2], "id") if word.endswith("id") and word[:-2] in _SIDE_OF else (word,)


class Hints:
    """What a name says of its column.

    Args:
        name: Of a column or a table.

    Example:
        >>> hints = Hints("movie_id")
        >>> str(hints.side), hints.is_id, hints.is_number, Hints("CustomerID").is_id, Hints("productid").is_id
        ('item', True, False, True, True)
    """

    def __init__(self, name: str) -> None:
        self.words = tuple(part for word in words_of(name) for part in _apart(word))
        self._all = frozenset(self.words)

    @property
    def side(self) -> Tags | None:
        """The only side that a word names, or None; a session is one, whosever it is: `user_session`."""
        sides = {_SIDE_OF[word] for word in self.words if word in _SIDE_OF}
        if Tags.SESSION in sides:
            return Tags.SESSION
        return sides.pop() if len(sides) == 1 else None

    @property
    def is_id(self) -> bool:
        """Whether it names a side and nothing else but that it is an id: `user`, `item_id`, `customer_no`."""
        return self.side is not None and all(word in _ID or word in _SIDE_OF for word in self.words)

    @property
    def ends_as_id(self) -> bool:
        """Whether it ends as an id does: `item_code`, `pid`."""
        return bool(self.words) and (self.words[-1] in _ID or (len(self.words[-1]) == 3 and self.words[-1][1:] == "id"))

    @property
    def refers(self) -> bool:
        """Whether it is an id of a certain user or item: `target_item_id`, not `user_zip_code`."""
        return self.side is not None and self.words[-1] in ("id", "uuid", "guid")

    def names_the_values_of(self, other: "Hints") -> bool:
        """Tell whether it may hold the values of another: both are ids of one side, or it is a history."""
        if self.ends_as_id and other.ends_as_id and self.side is not None:
            return self.side is other.side
        return bool(self._all & _HISTORY) and self.side in (None, other.side)

    def is_another(self, other: "Hints") -> bool:
        """Tell whether it may hold the values of another that is no id: `last_brand_code` those of `brand_id`."""
        return bool(self._all - _ID - _HISTORY) and self._all - _ID - _HISTORY == other._all - _ID - _HISTORY

    @property
    def is_code(self) -> bool:
        """Whether a number of that name is a code, not an amount."""
        return bool(self._all & _CODE)

    @property
    def is_number(self) -> bool:
        """Whether a number of that name is an amount."""
        return bool(self._all & _NUMBER) and not self.is_code

    @property
    def is_rating(self) -> bool:
        """Whether it is how much a user likes an item."""
        return bool(self._all & _RATING) and not self._all & _AGGREGATE

    @property
    def is_binary(self) -> bool:
        """Whether it is something that a user did or did not do."""
        return bool(self._all & _BINARY)

    @property
    def is_outcome(self) -> bool:
        """Whether it comes with the choice of an item: what was done, what it cost, how long it was watched."""
        if self._all & _LATER:
            return True
        return bool(self._all & _ACTION) or (bool(self._all & (_OUTCOME | _BINARY)) and not self.is_code)

    @property
    def is_known_when_asking(self) -> bool:
        """Whether it is something that is known of a query before anything is chosen: `device`, `search_words`."""
        return bool(self._all & _KNOWN) and not self.is_outcome

    @property
    def is_time(self) -> bool:
        """Whether it says when."""
        return bool(self._all & _TIME)

    @property
    def is_position(self) -> bool:
        """Whether it says where an item was shown."""
        return self.words in (("position",), ("rank",), ("slot",))

    @property
    def is_weight(self) -> bool:
        """Whether it says how much a row counts."""
        return self.words in (("weight",), ("sample", "weight"), ("example", "weight"))

    @property
    def is_amount_of_values(self) -> bool:
        """Whether a list of numbers may weigh the values of another list: `tag_counts`, `word_weights`."""
        return bool(self._all & {"count", "weight", "score", "frequency", "freq", "tfidf"})

    @property
    def is_apart(self) -> bool:
        """Whether it says how the data was made, which nobody knows of a new query: the split, the row number."""
        return bool(self._all & _APART)


def legal_name(name: str, taken: Iterable[str]) -> str:
    """Return a feature name for a column, unlike those taken even in small letters.

    Args:
        name: Of the column.
        taken: The names of features there are.

    Example:
        >>> legal_name("zip code", []), legal_name("età", []), legal_name("count", []), legal_name("Age", ["age"])
        ('zip_code', 'eta', 'count_column', 'Age_2')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    base = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_") if not NAME.fullmatch(name) else name
    if not base or not base[0].isalpha():
        base = f"column_{base}".rstrip("_")
    if base in RESERVED_NAMES or base.startswith("where_") or keyword.iskeyword(base):
        base = f"column_{base}" if base.startswith("where_") else f"{base}_column"
    folded = {it.casefold() for it in taken}
    number, found = 1, base
    while found.casefold() in folded:
        number += 1
        found = f"{base}_{number}"
    return found
