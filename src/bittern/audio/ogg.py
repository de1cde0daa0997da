"""Ogg chains: recordings one after the other in one file (RFC 3533, section 4), as radio makes them.

libsndfile reads the first alone; `find_links` says where each lies, so that all are read.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

_HEAD = struct.Struct(
    "<4sBBqIIIB"
)  # capture, version, flags, position, serial, page, CRC, segments
_FIRST = 2  # flag of the first page of a stream
_SEARCHED = 1 << 16  # bytes after damage in which the next page is looked for at a time


def find_links(file: BinaryIO) -> list[tuple[int, int]]:
    """Offset and size of each link, from the first to the end of the file.

    A link begins where a stream begins after pages that begin none.
    """
    starts, beginning = [0], True
    for place, first in _pages(file):
        if first and not beginning:
            starts.append(place)
        beginning = first
    end = file.seek(0, 2)
    return [(start, stop - start) for start, stop in zip(starts, [*starts[1:], end], strict=True)]


def _pages(file: BinaryIO) -> Iterator[tuple[int, bool]]:
    """Where pages lie, and whether each is the first of a stream."""
    place: int | None = 0
    while place is not None:
        file.seek(place)
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        mark, version, flags, *_, segments = _HEAD.unpack(head)
        if mark != b"OggS" or version:
            place = _search(file, place + 1)
            continue
        yield place, bool(flags & _FIRST)
        place += _HEAD.size + segments + sum(file.read(segments))


def _search(file: BinaryIO, place: int) -> int | None:
    """The next page from `place` on; None if there is none."""
    while True:
        file.seek(place)
        data = file.read(_SEARCHED)
        found = data.find(b"OggS")
        if found >= 0:
            return place + found
        if len(data) < _SEARCHED:
            return None
        place += len(data) - 3
