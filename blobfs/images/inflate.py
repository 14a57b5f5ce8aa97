"""Decompression of deflate streams that can begin at a block, by the system's zlib.

Python's ``zlib`` module neither stops at the end of a block nor begins at one. ``indexed_gzip``
does, but it decompresses each archive twice to index and read it, and holds 32 KiB of memory for
each point: gigabytes for a small blob of zeros. Source: zlib.h and RFC 1951.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

from blobfs.drivers.base import Closing
from blobfs.errors import LayerInvalid, Unsupported
from blobfs.images.source import PIECE

_GZIP: Final = 15 + 16
_RAW: Final = -15
_WINDOW: Final = 32 * 2**10

_NO_FLUSH: Final = 0
_BLOCK: Final = 5

_OK: Final = 0
_STREAM_END: Final = 1
_BUF_ERROR: Final = -5  # no progress: more input is needed

_LAST_BLOCK: Final = 64
_BLOCK_END: Final = 128
_UNUSED_BITS: Final = 7


class _Stream(ctypes.Structure):
    """zlib's z_stream."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


class Inflater(Closing):
    """A decompressor of gzip members. Owns memory of zlib. Not thread-safe.

    After each call of ``inflate``, *used* is the number of input bytes that it consumed.
    *is_at_end* is true at the end of a member. *bits* is the number of unused bits of the last
    input byte if a block that is not the last one has just ended, else None.
    """

    def __init__(self) -> None:
        self.used = 0
        self.is_at_end = False
        self.bits: int | None = None
        self._zlib = _zlib()
        self._stream = _Stream()
        self._output = ctypes.create_string_buffer(PIECE)
        version = self._zlib.zlibVersion()
        size = ctypes.sizeof(_Stream)
        self._check(self._zlib.inflateInit2_(self._reference, _GZIP, version, size))
        self._is_open = True

    @property
    def _reference(self) -> object:
        return ctypes.byref(self._stream)

    def begin(self) -> None:
        """Begin at a gzip header."""
        self._check(self._zlib.inflateReset2(self._reference, _GZIP))

    def begin_at_block(self, window: bytes, bits: int, value: int) -> None:
        """Begin at a block after the bytes *window*, whose first *bits* bits are *value*.

        The end of the member is then the end of its deflate data.
        """
        self._check(self._zlib.inflateReset2(self._reference, _RAW))
        if bits:
            self._check(self._zlib.inflatePrime(self._reference, bits, value))
        if window:
            self._check(self._zlib.inflateSetDictionary(self._reference, window, len(window)))

    def inflate(self, data: bytes, at: int, *, to_block: bool) -> bytes:
        """Decompress *data* from *at* on, up to ``PIECE`` bytes, or to the end of a block.

        An empty result means that more input is needed, or that a block or member has ended. Raises
        LayerInvalid.
        """
        stream = self._stream
        start = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        available = len(data) - at
        stream.next_in, stream.avail_in = start + at, available
        stream.next_out, stream.avail_out = ctypes.addressof(self._output), PIECE
        code = self._zlib.inflate(self._reference, _BLOCK if to_block else _NO_FLUSH)
        self.used = available - stream.avail_in
        if code not in {_OK, _STREAM_END, _BUF_ERROR}:
            self._check(code)
        self.is_at_end = code == _STREAM_END
        is_block = stream.data_type & (_BLOCK_END | _LAST_BLOCK) == _BLOCK_END
        self.bits = stream.data_type & _UNUSED_BITS if is_block else None
        return ctypes.string_at(self._output, PIECE - stream.avail_out)

    def window(self) -> bytes:
        """Return the last bytes of the output that the next block can refer to."""
        buffer = ctypes.create_string_buffer(_WINDOW)
        size = ctypes.c_uint(_WINDOW)
        self._check(self._zlib.inflateGetDictionary(self._reference, buffer, ctypes.byref(size)))
        return buffer.raw[: size.value]

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._zlib.inflateEnd(self._reference)

    def _check(self, code: int) -> None:
        if code != _OK:
            message = self._stream.msg or b"damaged"
            raise LayerInvalid(f"the gzip data are invalid: {message.decode()} ({code})")


@cache
def _zlib() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libz.so.1")
    except OSError as exc:
        raise Unsupported(f"layers with gzip need the library zlib; install it: {exc}") from None
    library.zlibVersion.restype = ctypes.c_char_p
    library.inflateInit2_.argtypes = (
        ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int,
    )  # fmt: skip
    library.inflateReset2.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.inflatePrime.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
    library.inflateSetDictionary.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint)
    library.inflateGetDictionary.argtypes = (ctypes.c_void_p,) * 3
    library.inflate.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.inflateEnd.argtypes = (ctypes.c_void_p,)
    return library
