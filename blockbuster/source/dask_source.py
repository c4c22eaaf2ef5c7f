"""Dask arrays with any chunks: a region is a small lazy array with a graph of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import compute, optimize
from dask.delayed import Delayed
from zarr.storage import LocalStore

from blockbuster.compat import Raised, held_arrays, own_graph
from blockbuster.errors import ends_process, error_text
from blockbuster.grid import Box
from blockbuster.source.base import Source
from blockbuster.source.checks import check_axes, check_pixels, native_dtype
from blockbuster.source.digest import digest_text
from blockbuster.source.zarr_source import identify_files

if TYPE_CHECKING:
    import dask.array as da

GRAPH_RAISED = "the graph of the image raised {}"


class DaskSource(Source):
    """Regions of a dask array.

    Parameters
    ----------
    image : dask.array.Array
        Of any number dtype, with chunks of NumPy arrays, regular or not.
    axes : str, optional
        One letter per axis; None: unknown.

    Raises
    ------
    TypeError
        For a dtype that is not a number, or chunks that are not plain NumPy arrays.
    ValueError
        For chunks of unknown size, an array without axes, or `axes` that do not fit it.

    Notes
    -----
    A chunk is computed once for every region that touches it, so that no chunk has to stay in
    memory from one region to the next. What a region needs besides, e.g. the maximum of the whole
    image, is computed anew for every region as well: compute such numbers first.

    Examples
    --------
    >>> import dask.array as da
    >>> source = DaskSource(da.arange(12, chunks=5).reshape(3, 4), axes="yx")
    >>> source.read((slice(1, 3), slice(0, 2)))
    array([[4, 5],
           [8, 9]])
    """

    kind = "dask"
    through_graph = True
    # Every one is a key or more of a graph, which holds several tasks.
    max_chunks_per_task = 512

    def __init__(self, image: da.Array, *, axes: str | None = None) -> None:
        name = "dask array"
        check_pixels(image.shape, image.dtype, name)
        check_axes(axes, image.shape, name)
        _check_chunks(image, name)
        for array in held_arrays(image):
            store = array.store
            if isinstance(store, LocalStore) and not Path(store.root).is_absolute():
                raise ValueError(
                    f"image ({name}) reads the zarr array {store.root} by a relative path, which leads elsewhere "
                    "when the working directory changes; open the array by its absolute path."
                )
        self._image = image
        shape = tuple(int(n) for n in image.shape)
        chunks = tuple(tuple(int(n) for n in lengths if n) or (0,) for lengths in image.chunks)
        super().__init__(shape, image.dtype, axes=axes, name=name, chunks=chunks)

    def lazy(self, box: Box) -> da.Array:
        """Return `box` as a lazy array of one chunk, whose graph has no more than the box needs.

        Parameters
        ----------
        box : tuple of slice
            One per axis, step 1.

        Returns
        -------
        dask.array.Array
            Of `dtype`. The one chunk may be a view of what the image's graph holds, so it must not
            be written to.

        Raises
        ------
        ValueError
            When computed, if the image's graph makes another shape or dtype than it promised.

        Notes
        -----
        About 0.1 ms per chunk touched. The same box gets the same keys every time.
        """
        part: da.Array
        (part,) = optimize(self._checked(box))
        return part

    def n_keys(self, box: Box) -> int:
        """Count the keys of the graph of a box."""
        return len(self.lazy(box).__dask_graph__())

    def sent(self, box: Box) -> Any:
        """Return the graph of a box."""
        return dict(self.lazy(box).__dask_graph__())

    def read(self, box: Box) -> np.ndarray:
        """Compute `box` (one slice per axis) on dask's configured scheduler."""
        graph, chunk = own_graph(self.lazy(box), "read", exits_only=True)
        (pixels,) = compute(Delayed(chunk, graph))
        if isinstance(pixels, Raised):
            raise RuntimeError(GRAPH_RAISED.format(pixels.text))
        return np.array(pixels, order="C", copy=True)

    def read_together(self, boxes: Sequence[Box]) -> list[np.ndarray]:
        """Compute boxes in one graph; a chunk is in memory until all that touch it are copied."""
        # A view would keep its chunk in memory.
        parts = [self._checked(box, copy=True) for box in boxes]
        return [np.array(pixels, order="C", copy=True) for pixels in _compute(parts)]

    def _checked(self, box: Box, copy: bool = False) -> da.Array:
        """Return a box in one chunk, which is looked at when it is computed."""
        part = self._image[box].rechunk(-1)
        check = partial(_check_block, shape=part.shape, dtype=self.dtype, copy=copy)
        checked: da.Array = part.map_blocks(check, dtype=self.dtype, meta=np.empty((0,) * part.ndim, self.dtype))
        return checked

    def identity(self) -> dict[str, Any]:
        """Return ``"graph"``, the array's name, and ``"chunks"``, a digest, besides; read no pixel.

        Where the graph reads zarr arrays on the local file system, ``"content"`` as well, a digest
        of what changes with their files: the name of a graph tells where an array lies, and not
        what is in it. The name of an array with random keys, e.g. from `dask.array.random`, is
        another one in every process.
        """
        files = [identify_files(array) for array in held_arrays(self._image)]
        return {
            **super().identity(),
            "chunks": digest_text(repr(self.chunks)),
            "graph": self._image.name,
            **({"content": digest_text(repr(files))} if any(files) else {}),
        }

    def chunk_reads(self, boxes: Iterable[Box]) -> float:
        """Return how often a chunk is computed, on average: by every box that touches it."""
        along = (zip(self.chunk_edges, box, strict=True) for box in boxes)
        touched = sum(math.prod(_count_touched(edges, part) for edges, part in axes) for axes in along)
        return touched / math.prod(len(lengths) for lengths in self.chunks)


def _check_chunks(image: da.Array, name: str) -> None:
    if any(math.isnan(length) for lengths in image.chunks for length in lengths):
        raise ValueError(f"image ({name}) has chunks of unknown size; call image.compute_chunk_sizes() first.")
    from dask.array.utils import meta_from_array

    meta = meta_from_array(image)
    if isinstance(meta, np.ma.MaskedArray):
        raise TypeError(
            f"image ({name}) has masked chunks; say what masked voxels are, e.g. dask.array.ma.filled(image, 0)."
        )
    if not isinstance(meta, np.ndarray):
        raise TypeError(
            f"image ({name}) has chunks of type {type(meta).__module__}.{type(meta).__name__}; they must be "
            "NumPy arrays, e.g. image.map_blocks(cupy.asnumpy)."
        )


def _count_touched(edges: np.ndarray, part: slice) -> int:
    start, stop, _ = part.indices(int(edges[-1]))
    if stop <= start:
        return 0
    first, last = np.searchsorted(edges, (start, stop - 1), side="right")
    return int(last - first + 1)


def _compute(parts: Sequence[da.Array]) -> Sequence[Any]:
    """Compute arrays; take an exit out of their graph for a fault of the image."""
    try:
        computed: Sequence[Any] = compute(*parts)
    except BaseException as error:
        if isinstance(error, Exception) or ends_process(error):
            raise
        raise RuntimeError(GRAPH_RAISED.format(f"{type(error).__name__}: {error_text(error)}")) from error
    return computed


def _check_block(block: Any, *, shape: tuple[int, ...], dtype: np.dtype[Any], copy: bool) -> np.ndarray:
    """Refuse what is not as promised (dask checks neither), and give it native byte order."""
    made = np.asarray(block)
    if isinstance(block, np.ma.MaskedArray) or made.shape != shape or native_dtype(made.dtype) != dtype:
        raise ValueError(
            f"a region of the dask array came out as {type(block).__name__} of {made.dtype}, shape {made.shape}; "
            f"it was announced as ndarray of {dtype}, shape {shape}. Correct the dtype or chunks given to "
            "map_blocks, from_delayed or the like."
        )
    return made.astype(dtype, copy=copy)
