"""FarmHash's Fingerprint64, as NumPy: what `tf.strings.to_hash_bucket_fast` computes inside the exported graph.

Data is encoded outside of TensorFlow, so the hash lives here; a test holds the two together.

Source: https://github.com/google/farmhash (farmhashna::Hash64).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["hash_buckets"]

_K0, _K1, _K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F
_CHUNK = 4_000_000  # bytes at a time: what bounds the memory


def hash_buckets(values: "pa.Array", buckets: int) -> "npt.NDArray[Any]":
    """Return the bucket of each value, [n] int64: the fingerprint of its text, modulo the number of buckets.

    Args:
        values: large_string or int64, without nulls, [n]. An integer's text is its decimal digits.
        buckets: How many.

    Example:
        >>> import pyarrow as pa
        >>> hash_buckets(pa.array(["ann", "bob", "ann"], pa.large_string()), 10).tolist()
        [6, 3, 6]
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(values)  # each distinct value is hashed once
    texts = encoded.dictionary.cast(pa.large_string())
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = texts.buffers()[2]
    data = np.frombuffer(content, np.uint8) if content is not None else np.zeros(0, np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = np.full(len(texts), _K2, np.uint64)  # that of the empty text
    ways: list[tuple[int, int, Callable[[Any, Any], Any]]] = [
        (1, 3, _up_to_3),
        (4, 7, _up_to_7),
        (8, 16, _up_to_16),
        (17, 32, _up_to_32),
        (33, 64, _up_to_64),
    ]
    blocks = np.unique((lengths[lengths > 64] - 1) // 64)  # longer ones, by their number of whole blocks
    ways += [(64 * it + 1, 64 * it + 64, _longer) for it in blocks.tolist()]
    with np.errstate(over="ignore"):  # 64-bit arithmetic wraps around, as the hash wants
        for low, high, way in ways:
            (chosen,) = np.nonzero((lengths >= low) & (lengths <= high))
            for part in np.array_split(chosen, -(-len(chosen) * high // _CHUNK)) if len(chosen) else ():
                span = np.arange(high)
                at = np.minimum(starts[part, None] + span, len(data) - 1)  # [n, high]
                rows = np.where(span < lengths[part, None], data[at], 0).astype(np.uint8)
                hashes[part] = way(_Bytes(rows), lengths[part].astype(np.uint64))
    return (hashes % np.uint64(buckets)).astype(np.int64)[encoded.indices.to_numpy()]


class _Bytes:
    """The bytes of texts, [n, width], read as little-endian words."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def word(self, at: Any, size: int = 8) -> Any:
        """Return the words of `size` bytes that begin at an offset: one for all, or one for each text."""
        import numpy as np

        first = np.broadcast_to(np.asarray(at, np.int64), len(self.rows))
        places = first[:, None] + np.arange(size)
        taken = np.take_along_axis(self.rows, places, axis=1).astype(np.uint64)
        return (taken << (np.arange(size, dtype=np.uint64) * np.uint64(8))).sum(axis=1, dtype=np.uint64)


def _u(value: int) -> Any:
    import numpy as np

    return np.uint64(value)


def _rotate(value: Any, by: int) -> Any:
    return (value >> _u(by)) | (value << _u(64 - by))


def _mix(u: Any, v: Any, by: Any) -> Any:
    a = (u ^ v) * by
    a ^= a >> _u(47)
    b = (v ^ a) * by
    b ^= b >> _u(47)
    return b * by


def _shift_mix(value: Any) -> Any:
    return value ^ (value >> _u(47))


def _up_to_3(texts: _Bytes, length: Any) -> Any:
    a, b, c = texts.word(0, 1), texts.word(length >> _u(1), 1), texts.word(length - _u(1), 1)
    return _shift_mix((a + (b << _u(8))) * _u(_K2) ^ (length + (c << _u(2))) * _u(_K0)) * _u(_K2)


def _up_to_7(texts: _Bytes, length: Any) -> Any:
    by = _u(_K2) + length * _u(2)
    return _mix(length + (texts.word(0, 4) << _u(3)), texts.word(length - _u(4), 4), by)


def _up_to_16(texts: _Bytes, length: Any) -> Any:
    by = _u(_K2) + length * _u(2)
    a, b = texts.word(0) + _u(_K2), texts.word(length - _u(8))
    return _mix(_rotate(b, 37) * by + a, (_rotate(a, 25) + b) * by, by)


def _up_to_32(texts: _Bytes, length: Any) -> Any:
    by = _u(_K2) + length * _u(2)
    a, b = texts.word(0) * _u(_K1), texts.word(8)
    c, d = texts.word(length - _u(8)) * by, texts.word(length - _u(16)) * _u(_K2)
    return _mix(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _u(_K2), 18) + c, by)


def _up_to_64(texts: _Bytes, length: Any) -> Any:
    by = _u(_K2) + length * _u(2)
    a, b = texts.word(0) * _u(_K2), texts.word(8)
    c, d = texts.word(length - _u(8)) * by, texts.word(length - _u(16)) * _u(_K2)
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _mix(y, a + _rotate(b + _u(_K2), 18) + c, by)
    e, f = texts.word(16) * by, texts.word(24)
    g, h = (y + texts.word(length - _u(32))) * by, (z + texts.word(length - _u(24))) * by
    return _mix(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, by)


def _longer(texts: _Bytes, length: Any) -> Any:
    """Return the fingerprints of texts above 64 bytes, which have the same number of whole blocks of 64."""
    x, y = _u(81), _u(81) * _u(_K1) + _u(113)
    z = _shift_mix(y * _u(_K2) + _u(113)) * _u(_K2)
    v, w = (_u(0), _u(0)), (_u(0), _u(0))
    x = x * _u(_K2) + texts.word(0)
    for block in range((texts.rows.shape[1] - 1) // 64):
        s = [texts.word(64 * block + 8 * it) for it in range(8)]
        x, y, z, v, w = _round(s, x, y, z, v, w, _u(_K1), (_u(1), _u(1)))
    by = _u(_K1) + ((z & _u(0xFF)) << _u(1))
    w = (w[0] + ((length - _u(1)) & _u(63)), w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    last = [texts.word(length - _u(64 - 8 * it)) for it in range(8)]
    x, y, z, v, w = _round(last, x, y, z, v, w, by, (_u(9), _u(9)))
    return _mix(_mix(v[0], w[0], by) + _shift_mix(y) * _u(_K0) + z, _mix(v[1], w[1], by) + x, by)


def _round(s: Any, x: Any, y: Any, z: Any, v: Any, w: Any, by: Any, times: Any) -> Any:
    """Mix a block of 64 bytes, as 8 words, into the state."""
    x = _rotate(x + y + v[0] + s[1], 37) * by
    y = _rotate(y + v[1] + s[6], 42) * by
    x ^= w[1] * times[0]
    y += v[0] * times[1] + s[5]
    z = _rotate(z + w[0], 33) * by
    v = _weak(s[:4], v[1] * by, x + w[0])
    w = _weak(s[4:], z + w[1], y + s[2])
    return z, y, x, v, w


def _weak(s: Any, a: Any, b: Any) -> Any:
    a = a + s[0]
    b = _rotate(b + a + s[3], 21)
    c = a
    a = a + s[1] + s[2]
    b = b + _rotate(a, 44)
    return a + s[3], b + c
