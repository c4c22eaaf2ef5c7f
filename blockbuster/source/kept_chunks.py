"""Parts of decoded chunks, kept in memory for the other bricks that read them."""

from __future__ import annotations

import itertools
import math
import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from blockbuster.grid import Box, Index, common_box, relative_box

# More would make the peak memory of a run grow with the image by more than a tenth.
MAX_KEPT_BYTES = 2**23

# Where the bricks begin and end along an axis, halo included, in order.
Spans = Sequence[tuple[int, int]]
# Where one does along each axis.
Brick = tuple[tuple[int, int], ...]
# Boxes and what is in them.
Parts = list[tuple[Box, np.ndarray]]


@dataclass(eq=False)
class _Decoding:
    """A brick that reads a chunk, and what it will keep of it for others."""

    brick: Brick
    n_alike: int
    boxes: Sequence[Box]
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class _Chunk:
    """What is kept of a chunk, who reads it now, and which bricks have done so."""

    n_readers: int
    readers: Counter[Brick] = field(default_factory=Counter)
    parts: Parts = field(default_factory=list)
    decoding: list[_Decoding] = field(default_factory=list)


class KeptChunks:
    """What several bricks read of a chunk, from the first of them to the last.

    Parameters
    ----------
    spans : sequence of sequence of (int, int)
        Per axis of the stored array where bricks begin and end, halo included.
    chunk_shape : tuple of int
        Shape of a chunk.
    itemsize : int
        Bytes per voxel.
    max_bytes : int
        What finds no room is decoded again.

    Notes
    -----
    Of a chunk that lies in one brick, its neighbours read the rim, and only that is kept. One that
    lies in several bricks is kept whole. What every brick has read is dropped.

    Bricks are taken to be read in C order, so that little waits for the next brick along the last
    axis, and a whole layer of the image for that along the first. What waits along an axis is kept
    if there is room for all of it, the last axis first.

    Examples
    --------
    >>> kept = KeptChunks([[(0, 6), (4, 10)]], (5,), 8)
    >>> left = kept.read("c/0", (slice(0, 5),), (slice(0, 6),), lambda: np.arange(5))
    >>> kept.read("c/0", (slice(0, 5),), (slice(4, 10),), lambda: 1 / 0)
    array([4])
    """

    def __init__(
        self, spans: Sequence[Spans], chunk_shape: Index, itemsize: int, max_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        self._spans = spans
        self._extent = tuple([slice(axis[0][0], axis[-1][1]) for axis in spans])
        self._lock = threading.Lock()
        self._chunks: dict[str, _Chunk] = {}
        self._room = room = max_bytes
        self._rims: set[int] = set()
        self._wholes: set[int] = set()
        longest = [max(stop - start for start, stop in axis) for axis in spans]
        for axis in reversed(range(len(spans))):
            widths = [brick + chunk for brick, chunk in zip(longest[:axis], chunk_shape, strict=False)]
            face = itemsize * math.prod([*widths, *(part.stop - part.start for part in self._extent[axis + 1 :])])
            overlap = max((one[1] - two[0] for one, two in itertools.pairwise(spans[axis])), default=0)
            for depth, axes in ((overlap, self._rims), (chunk_shape[axis], self._wholes)):
                if face * depth <= room:
                    room -= face * depth
                    axes.add(axis)

    def read(self, key: str, chunk: Box, region: Box, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what a region has of a chunk: what is kept of it, or what a function decodes.

        Parameters
        ----------
        key : str
            Tells chunks apart.
        chunk : tuple of slice
            Where the chunk lies.
        region : tuple of slice
            A brick with its halo. Something else is read as well, and nothing is kept for it.
        decode : callable
            Gives the whole chunk.
        """
        wanted = common_box(chunk, region)
        readers = [self._readers(axis, part) for axis, part in enumerate(chunk)]
        n_readers = math.prod(map(len, readers))
        own = tuple([(part.start, part.stop) for part in region])
        if n_readers == 1 or not all(span in spans for span, spans in zip(own, readers, strict=True)):
            return decode()[relative_box(wanted, chunk)]
        places = [spans.index(span) for span, spans in zip(own, readers, strict=True)]
        others = [[*spans[:i], *spans[i + 1 :]] for i, spans in zip(places, readers, strict=True)]
        # At the image's border a halo may make bricks see the same.
        n_alike = math.prod(spans.count(span) for span, spans in zip(own, readers, strict=True))
        boxes = self._shared(chunk, region, others)
        decoding = _Decoding(own, n_alike, boxes)
        kept, found = self._look_up(key, _Chunk(n_readers), wanted, decoding)
        parts = None
        try:
            box, values = found or (chunk, decode())
            if box == chunk:
                parts = [(part, _cut(values, part, chunk)) for part in boxes]
        finally:
            self._take_note(key, kept, parts, decoding)
        return values[relative_box(wanted, box)]

    def _look_up(
        self, key: str, new: _Chunk, wanted: Box, decoding: _Decoding
    ) -> tuple[_Chunk, tuple[Box, np.ndarray] | None]:
        """Return what is kept of a chunk, and the part in which a box lies, if any.

        A brick that is about to keep one is waited for; from here on others wait for this one.
        """
        while True:
            with self._lock:
                kept = self._chunks.setdefault(key, new)
                found = next((entry for entry in kept.parts if _contains(entry[0], wanted)), None)
                coming = [one.done for one in kept.decoding if any(_contains(box, wanted) for box in one.boxes)]
                if found or not coming:
                    kept.decoding.append(decoding)
                    return kept, found
            coming[0].wait()

    def _readers(self, axis: int, part: slice) -> Spans:
        """Return where bricks begin and end along an axis that read a part of it."""
        spans = self._spans[axis]
        first = bisect_right(spans, part.start, key=lambda span: span[1])
        return spans[first : bisect_left(spans, part.stop, key=lambda span: span[0])]

    def _shared(self, chunk: Box, region: Box, others: Sequence[Spans]) -> list[Box]:
        """Return what others read of a chunk, as far as there is room for it along its axes."""
        inner = common_box(chunk, self._extent)
        cut = {axis for axis, part in enumerate(inner) if not _contains((region[axis],), (part,))}
        for axis in cut - self._wholes:
            inner = (*inner[:axis], *common_box([inner[axis]], [region[axis]]), *inner[axis + 1 :])
        if cut & self._wholes:
            return [inner]
        return [
            (*inner[:axis], *common_box([slice(*span)], [inner[axis]]), *inner[axis + 1 :])
            for axis in self._rims - cut
            for span in others[axis]
        ]

    def _take_note(self, key: str, kept: _Chunk, parts: Parts | None, decoding: _Decoding) -> None:
        """Count a brick that has read a chunk, and keep its parts instead of what was; None: as it
        is.
        """
        with self._lock:
            kept.decoding.remove(decoding)
            # One that is read again counts once.
            if kept.readers[decoding.brick] < decoding.n_alike:
                kept.readers[decoding.brick] += 1
            if kept.readers.total() == kept.n_readers:
                self._chunks.pop(key, None)
                parts = []
            if parts is not None:
                self._room += sum(part.nbytes for _, part in kept.parts)
                n_bytes = sum(part.nbytes for _, part in parts)
                kept.parts = parts if n_bytes <= self._room else []
                self._room -= sum(part.nbytes for _, part in kept.parts)
        decoding.done.set()


def _cut(values: np.ndarray, box: Box, chunk: Box) -> np.ndarray:
    return values if box == chunk else values[relative_box(box, chunk)].copy()


def _contains(whole: Sequence[slice], part: Sequence[slice]) -> bool:
    return all(a.start <= b.start and b.stop <= a.stop for a, b in zip(whole, part, strict=True))
