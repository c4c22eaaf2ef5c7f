"""Drawing that all pictures share: arrays in, RGB arrays out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

# Any two are 40 or more apart in CIELAB, and 30 from the background, from black, white and red.
PALETTE = np.frombuffer(
    bytes.fromhex(
        "f85c80 14f814 20e0ec 1450f8 ecbc14 147414 5c68a4 f814e0"
        "805c38 c8e098 f8742c f898f8 14ec8c 2c7468 8cc814 ecb0bc"
    ),
    np.uint8,
).reshape(-1, 3)
BACKGROUND, OUTLINE = (28, 28, 30), (0, 0, 0)
# What happened at a place of a seam, and how it is drawn.
NOTHING, JOINED, APART = 0, 1, 2
SEAM_COLOURS = np.array([(110, 110, 116), (255, 255, 255), (255, 0, 0)], np.uint8)
# Objects count as near that are at most so many pixels apart once each has grown into the
# background.
NEAR, GROWTH = 3, 8
# A pixel, and the one below it or to its right.
ASIDE = ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]))
# With more objects or neighbours, nobody can tell colours apart; they are taken by number then.
MAX_OBJECTS, MAX_PAIRS = 20_000, 400_000
# A colour that a touching object has is avoided before all those that near ones have.
TOUCHING_WEIGHT = 1000
SPREAD = 0.6180339887498949
DASH = 6


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """Colour labels so that neighbouring objects differ clearly.

    Parameters
    ----------
    labels : (h, w) ndarray of int
        Labels; 0 is background.

    Returns
    -------
    (h, w, 3) ndarray of uint8
        Colours of `PALETTE`, the same at every call. Objects that touch, corners included, have
        different ones. So do objects with few pixels between them, where there are enough colours.
        A label keeps its colour from picture to picture unless a neighbour has it.

    Notes
    -----
    About 0.5 s and 60 MB per million pixels. With more than 20,000 objects or 400,000 pairs of
    neighbours, colours go by number, so that neighbours may share one.

    Examples
    --------
    >>> colours = colour_labels(np.array([[5, 5, 21], [0, 5, 21]]))
    >>> bool((colours[0, 0] == colours[0, 2]).all()), tuple(colours[1, 0].tolist())
    (False, (28, 28, 30))
    """
    ids, positions = np.unique(np.append(0, labels), return_inverse=True)
    numbers = positions[1:].reshape(labels.shape).astype(np.int32)
    preferred = (len(PALETTE) * (ids.astype(np.float64) * SPREAD % 1)).astype(np.intp)
    pairs = None if len(ids) > MAX_OBJECTS else _neighbours(numbers, len(ids))
    colours = PALETTE[preferred if pairs is None else _choose_colours(preferred, *pairs)]
    colours[0] = BACKGROUND
    return np.asarray(colours[numbers])


def _choose_colours(preferred: np.ndarray, *pairs: np.ndarray) -> np.ndarray:
    """Colour objects, given touching and near pairs; each comes after few that touch it."""
    n = len(preferred)
    touching, near = graphs = [[set[int]() for _ in range(n)] for _ in range(2)]
    for graph, found in zip(graphs, pairs, strict=True):
        for one, other in found.tolist():
            graph[one].add(other)
            graph[other].add(one)
    chosen = [-1] * n
    for node in _smallest_last(touching):
        costs = [0] * len(PALETTE)
        for graph, weight in ((touching, TOUCHING_WEIGHT), (near, 1)):
            for other in graph[node]:
                if chosen[other] >= 0:
                    costs[chosen[other]] += weight
        first = int(preferred[node])
        chosen[node] = min(range(len(PALETTE)), key=lambda c: (costs[c], (c - first) % len(PALETTE)))
    return np.array(chosen, np.intp)


def _neighbours(numbers: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Collect the pairs of touching and of near objects; None where there are too many."""
    touching, near = (np.empty(0, np.int64) for _ in range(2))
    grown = _grow(numbers)
    # From a pixel to half of those near it; the other half are the same pairs.
    steps = ((down, right) for down in range(NEAR + 1) for right in range(-NEAR if down else 1, NEAR + 1))
    for down, right in steps:
        if down**2 + right**2 > NEAR**2:
            continue
        if max(down, abs(right)) == 1:
            touching = _distinct(np.append(touching, _pairs_at(numbers, n, down, right)))
        near = _distinct(np.append(near, _pairs_at(grown, n, down, right)))
        if len(near) > MAX_PAIRS:
            return None
    near = np.setdiff1d(near, touching, assume_unique=True)
    return np.stack(np.divmod(touching, n), axis=1), np.stack(np.divmod(near, n), axis=1)


def _grow(numbers: np.ndarray) -> np.ndarray:
    """Let objects grow into the background, so that those next to each other meet."""
    grown = numbers.copy()
    for _ in range(GROWTH):
        before = grown.copy()
        for here, there in (*ASIDE, *(pair[::-1] for pair in ASIDE)):
            np.copyto(grown[here], before[there], where=grown[here] == 0)
    return grown


def _pairs_at(numbers: np.ndarray, n: int, down: int, right: int) -> np.ndarray:
    """Return one number per pair of different objects at this distance from each other."""
    height, width = numbers.shape
    here = numbers[: max(0, height - down), max(0, -right) : max(0, width - max(0, right))]
    there = numbers[down:, max(0, right) : max(0, width + min(0, right))]
    differ = np.nonzero((here != there) & (here != 0) & (there != 0))
    one, other = here[differ].astype(np.int64), there[differ]
    return _distinct(np.minimum(one, other) * n + np.maximum(one, other))


def _distinct(codes: np.ndarray) -> np.ndarray:
    # numpy.unique takes ten times as long where most are different.
    codes = np.sort(codes)
    distinct: np.ndarray = codes[np.append(True, codes[1:] != codes[:-1])[: len(codes)]]
    return distinct


def _smallest_last(graph: Sequence[set[int]]) -> list[int]:
    """Order nodes so that in a plane none comes after more than a few of its neighbours."""
    degrees = [len(others) for others in graph]
    heap = [(degree, node) for node, degree in enumerate(degrees)]
    heapq.heapify(heap)
    order: list[int] = []
    while heap:
        degree, node = heapq.heappop(heap)
        if degree != degrees[node]:
            continue
        degrees[node] = -1
        order.append(node)
        for other in graph[node]:
            if degrees[other] > 0:
                degrees[other] -= 1
                heapq.heappush(heap, (degrees[other], other))
    return order[::-1]


def mark_outlines(labels: np.ndarray) -> np.ndarray:
    """Mark where objects touch.

    Parameters
    ----------
    labels : (h, w) ndarray of int
        Labels; 0 is background.

    Returns
    -------
    (h, w) ndarray of bool
        True on the last pixel of an object before another one, to the right and downwards.

    Examples
    --------
    >>> mark_outlines(np.array([[1, 1, 2, 0, 3]])).tolist()
    [[False, True, False, False, False]]
    """
    marked = np.zeros(labels.shape, bool)
    for here, ahead in ASIDE:
        marked[here] |= (labels[here] != labels[ahead]) & (labels[here] != 0) & (labels[ahead] != 0)
    return marked


def paint_labels(
    labels: np.ndarray,
    image: np.ndarray | None = None,
    *,
    alpha: float = 1.0,
    outlines: bool = True,
    zoom: int = 1,
) -> np.ndarray:
    """Paint labels in colours, over an image where one is given.

    Parameters
    ----------
    labels : (h, w) ndarray of int
        Labels; 0 is background.
    image : (h, w, 3) ndarray of uint8, optional
        What is seen through the colours, and instead of the background.
    alpha : float
        0: only the image; 1: only the colours. Without an image it has no effect.
    outlines : bool
        Whether a dark line keeps objects that touch apart; it is one pixel thick.
    zoom : int
        Pixels per voxel.

    Returns
    -------
    (zoom * h, zoom * w, 3) ndarray of uint8

    Examples
    --------
    >>> grey = np.full((1, 2, 3), 200, np.uint8)
    >>> paint_labels(np.array([[1, 0]]), grey, alpha=0.5)[0, 1].tolist()
    [200, 200, 200]
    """
    pixels = colour_labels(labels)
    if image is not None:
        inside = labels != 0
        mixed = alpha * pixels[inside] + (1 - alpha) * image[inside]
        pixels = np.array(image, np.uint8)
        pixels[inside] = mixed.round().astype(np.uint8)
    pixels = enlarge(pixels, zoom)
    if outlines:
        pixels[mark_outlines(enlarge(labels, zoom))] = OUTLINE
    return pixels


def to_grey(image: np.ndarray) -> np.ndarray:
    """Show an image of any range as grey, its darkest percent black and its brightest pixels white.

    Parameters
    ----------
    image : (h, w) ndarray of bool, int, float or complex
        Pixels; NaN and infinite ones are drawn as the nearest end of the range.

    Returns
    -------
    (h, w, 3) ndarray of uint8

    Examples
    --------
    >>> to_grey(np.array([[0, 1, 1]]))[0, :, 0].tolist()
    [0, 255, 255]
    """
    values = np.abs(image) if image.dtype.kind == "c" else image
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99.8)) if finite.size else (0.0, 1.0)
    if not high > low:
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    # Halves, since the range of the largest numbers is not a number.
    span = high / 2 - low / 2 if high > low else 0.5
    shown = np.nan_to_num(np.clip((values / 2 - low / 2) / span, 0, 1))
    return np.asarray((255 * shown).astype(np.uint8)[..., None].repeat(3, axis=-1))


def seam_states(before: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Return what happened along a seam, from the final labels on its two sides.

    Parameters
    ----------
    before, behind : ndarray of int, same shape
        Labels of the last voxels before the seam and of the first ones behind it; 0 is background.

    Returns
    -------
    ndarray of uint8, same shape
        `JOINED` where both are one object, `APART` where two objects touch, `NOTHING` elsewhere.

    Examples
    --------
    >>> seam_states(np.array([7, 7, 0, 7]), np.array([7, 8, 8, 0])).tolist()
    [1, 2, 0, 0]
    """
    both = (before != 0) & (behind != 0)
    return np.where(both, np.where(before == behind, JOINED, APART), NOTHING).astype(np.uint8)


def draw_seams(
    pixels: np.ndarray,
    labels: np.ndarray,
    rows: Sequence[int] = (),
    columns: Sequence[int] = (),
    *,
    zoom: int = 1,
    width: int = 1,
    dashed: bool = False,
) -> np.ndarray:
    """Draw seams in the colours of what happened there.

    Parameters
    ----------
    pixels : (zoom * h, zoom * w, 3) ndarray of uint8
        What is drawn on.
    labels : (h, w) ndarray of int
        The final labels.
    rows, columns : sequence of int
        First rows and first columns behind the seams; others than 1 to ``h - 1`` and ``w - 1`` are
        left out.
    zoom : int
        Pixels per voxel.
    width : int
        Thickness of a line in pixels; of 1, it lies on the first pixels behind the seam.
    dashed : bool
        Draw every other few pixels only, so that what lies below can be seen.

    Returns
    -------
    (zoom * h, zoom * w, 3) ndarray of uint8
        A copy. A place where objects were joined or kept apart is drawn over one where there is
        nothing.

    Examples
    --------
    >>> labels = np.array([[1, 1, 0], [1, 2, 0]])
    >>> draw_seams(np.zeros((2, 3, 3), np.uint8), labels, rows=[1])[1].tolist()
    [[255, 255, 255], [255, 0, 0], [110, 110, 116]]
    """
    drawn = pixels.copy()
    lines = [
        (canvas, int(cut), seam_states(sides[cut - 1], sides[cut]))
        for canvas, sides, cuts in ((drawn, labels, rows), (drawn.swapaxes(0, 1), labels.T, columns))
        for cut in cuts
        if 0 < cut < len(sides)
    ]
    # Where two seams cross, the one with something to show is on top.
    for state in (NOTHING, JOINED, APART):
        for canvas, cut, states in lines:
            along = np.flatnonzero(states.repeat(zoom) == state)
            if dashed:
                along = along[along % (2 * DASH) < DASH]
            start = zoom * cut - width // 2
            # A wide line near the edge begins outside, where a negative start would count from the
            # end.
            canvas[max(0, start) : start + width, along] = SEAM_COLOURS[state]
    return drawn


def enlarge(pixels: np.ndarray, zoom: int) -> np.ndarray:
    """Repeat each pixel `zoom` times along the first two axes.

    Examples
    --------
    >>> enlarge(np.array([[1, 2]]), 2).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    return pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
