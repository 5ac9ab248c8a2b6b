"""Texts to tokens, outside the graph; `features.encoders` does the same inside it, with the same regular expressions."""

from typing import TYPE_CHECKING, Any

from schemaflow.schema.options import TextOptions

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["BLANKS", "PUNCTUATION", "tokens_of"]

PUNCTUATION = r"[\p{P}\p{S}]"
"""What `strip_punctuation` takes out; RE2, which both Arrow and TensorFlow use."""

BLANKS = r"[\s\p{Z}\x{85}\x0b]+"
"""What separates words."""


def tokens_of(options: TextOptions, texts: "pa.Array") -> "tuple[pa.Array, npt.NDArray[Any]]":
    """Return the tokens of all texts end to end (large_string), and where each text's begin, [n + 1] int64.

    Args:
        options: How.
        texts: large_string, [n]; a missing text has no token.

    Example:
        >>> import pyarrow as pa
        >>> tokens, splits = tokens_of(TextOptions(), pa.array(["Toy Story (1995)", None, "Don't!"], pa.large_string()))
        >>> tokens.to_pylist(), splits.tolist()
        (['toy', 'story', '1995', 'dont'], [0, 3, 3, 4])
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    # each distinct text is worked on once: titles repeat with each interaction
    encoded = pc.dictionary_encode(pc.fill_null(texts, ""))
    distinct = encoded.dictionary.cast(pa.large_string())
    if "lower" in options.standardize:
        # Python's lower is TensorFlow's (both follow SpecialCasing); Arrow's folds letter by letter
        distinct = pa.array([text.lower() for text in distinct.to_pylist()], pa.large_string())
    if "strip_punctuation" in options.standardize:
        distinct = pc.replace_substring_regex(distinct, PUNCTUATION, "")
    if options.split == "whitespace":
        words = pc.split_pattern(pc.replace_substring_regex(distinct, BLANKS, " "), " ")
    else:
        words = pa.array([list(it) for it in pc.replace_substring_regex(distinct, BLANKS, "").to_pylist()],
                         pa.large_list(pa.large_string()))  # fmt: skip
    lengths, flat = pc.list_value_length(words).to_numpy(), words.flatten().cast(pa.large_string())
    real = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)
    text_of = np.repeat(np.arange(len(distinct)), lengths)  # of each token
    lengths = np.bincount(text_of[real], minlength=len(distinct))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    which = encoded.indices.to_numpy()
    splits = np.concatenate([[0], np.cumsum(lengths[which])]).astype(np.int64)
    # token j of row i is token start_of_text + j of its distinct text
    places = np.arange(splits[-1]) + np.repeat(starts[which] - splits[:-1], lengths[which])
    return flat.filter(pa.array(real)).take(pa.array(places, pa.int64())), splits
