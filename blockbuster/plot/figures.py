"""Figures: tiles over the image, labels in colours, and what happened at the seams."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from blockbuster.grid import TileGrid
from blockbuster.plot.view import (
    Image,
    Picture,
    View,
    choose_view,
    limit_view,
    open_image,
    open_labels,
    read_picture,
)
from blockbuster.report import RunReport
from blockbuster.report.colours import APART, JOINED, NOTHING, SEAM_COLOURS, paint_labels, seam_states, to_grey
from blockbuster.run.plan import plan_run

GRID, HATCH = "#35c9ff", "#ffb000"
# Inches of a figure, which is 800 pixels wide; letters of a title of one of two panels, and of one
# alone.
WIDTH, MAX_HEIGHT, TITLE, LEGEND = 8.0, 9.0, 0.55, 0.6
LETTERS = 52
FONT_SIZE = 8
ENDINGS = {2: "nd", 3: "rd"}
# Pixels along the longer side of painted labels.
MIN_PIXELS = 600
# Seams are thin lines where there are more than few, and none where there are so many along an axis
# that nothing else would be seen.
FEW_SEAMS, MAX_SEAMS = 16, 120
STATES = {
    JOINED: "seam: one object, joined",
    APART: "seam: two objects, kept apart",
    NOTHING: "seam: nothing there",
}


def plot_run(
    image: Any,
    labels: Any = None,
    report: RunReport | None = None,
    *,
    tile_shape: Any = None,
    overlap: Any = 0,
    skipped: Any = None,
    plane: Any = None,
    region: Any = None,
    channel: int | None = 0,
    level: int = 0,
    axes: str | None = None,
) -> Any:
    """Draw an image with its tiles, and beside it the labels and what happened at the seams.

    Parameters
    ----------
    image : path, dask array, numpy.ndarray or zarr.Array
        As in `tile_process`.
    labels : path, dask array, numpy.ndarray or zarr.Array, optional
        The final labels, of the image's shape without its channel axis: what `tile_process`
        returned, its ``write_to``, or the path of an array or of a label image. None: the image
        alone.
    report : RunReport, optional
        Of the run; it knows the tiles.
    tile_shape, overlap
        As in `tile_process`, where there is no report. The halo of one tile is drawn.
    skipped : ndarray of bool or EmptyTiles, optional
        Which tiles were skipped, an array over the tile grid, or what `estimate_empty_tiles`
        returned. A report knows only how many.
    plane : int or tuple of int, optional
        Index along each axis before the last two (but for a channel axis). None: the middle.
    region : (slice, slice), optional
        Rows and columns to draw. None: all.
    channel, level, axes
        As in `tile_process`.

    Returns
    -------
    matplotlib.figure.Figure
        800 pixels wide. In a notebook, end the line with a semicolon, or the figure is shown twice.

    Raises
    ------
    ImportError
        If matplotlib is not there.
    TypeError, ValueError, FileNotFoundError
        If `image` or `labels` cannot be read or do not fit each other, or an argument does not fit
        the image.

    Notes
    -----
    Reads the chunks of the plane that is drawn, and of those what the region touches. A side of
    more than 2000 voxels is drawn from a coarser level, or from every few pixels; of a plane of
    more than 2**26 voxels without a coarser level, the middle is drawn. The title says so. Seams
    are compared voxel by voxel unless labels come from a coarser level; they are plain lines then.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> labels = np.zeros((60, 60), int)
    >>> labels[10:40, 10:40] = 1
    >>> figure = plot_run(labels * 9.5, labels, tile_shape=(20, 20), overlap=4)
    >>> [panel.get_title(loc="left") for panel in figure.axes]
    ['image, 3 x 3 tiles', 'labels, 1 object']
    >>> matplotlib.pyplot.close(figure)
    """
    pyplot = _pyplot()
    opened = open_image(image, channel=channel, level=level, axes=axes)
    found = None if labels is None else open_labels(labels, opened)
    layers = [opened] if found is None else [opened, found]
    view = limit_view(choose_view(opened, plane, region), *layers)
    options = {"tile_shape": tile_shape, "overlap": overlap, "channel": channel, "level": level, "axes": axes}
    grid = _find_grid(image, opened, report, **options)
    size = _size(view, len(layers), TITLE + LEGEND)
    figure, panels = pyplot.subplots(1, len(layers), figsize=size, dpi=100, layout="constrained", squeeze=False)
    keys = _draw_tiles(panels[0, 0], opened, view, grid, _skipped_array(skipped, grid), report)
    if found is not None:
        keys += _draw_labels(panels[0, 1], found, view, grid, report, opened)
    figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=FONT_SIZE, frameon=False)
    return figure


def show_labels(
    labels: Any,
    image: Any = None,
    *,
    ax: Any = None,
    outlines: bool = True,
    alpha: float = 0.6,
    plane: Any = None,
    region: Any = None,
) -> Any:
    """Draw labels in colours of which neighbours differ.

    Parameters
    ----------
    labels, image : path, dask array, numpy.ndarray or zarr.Array
        As in `plot_run`; with an image, the colours lie over it.
    ax : matplotlib.axes.Axes, optional
        Where to draw. None: in a new figure.
    outlines : bool
        Whether a dark line keeps objects that touch apart.
    alpha : float
        How much of the image the colours hide, 0 to 1.
    plane, region
        As in `plot_run`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not there.
    TypeError, ValueError, FileNotFoundError
        As `plot_run`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> show_labels(np.eye(4, dtype=int)).get_title(loc="left")
    'labels, 1 object'
    >>> matplotlib.pyplot.close()
    """
    base = None if image is None else open_image(image)
    opened = open_labels(labels, base)
    layers = [opened] if base is None else [opened, base]
    view = limit_view(choose_view(opened, plane, region), *layers)
    picture = read_picture(opened, view)
    under = None if base is None else _resampled(read_picture(base, view), picture)
    ax = _new_axes(view) if ax is None else ax
    _show_labels(ax, picture, view, under, alpha=alpha, outlines=outlines)
    _set_title(ax, _labels_title(picture, None), opened, picture, view)
    return ax


def show_tiles(
    image: Any,
    tile_shape: Any,
    *,
    skipped: Any = None,
    ax: Any = None,
    overlap: Any = 0,
    plane: Any = None,
    region: Any = None,
    channel: int | None = 0,
    level: int = 0,
    axes: str | None = None,
) -> Any:
    """Draw an image with its tiles, those that are skipped hatched.

    Parameters
    ----------
    image, tile_shape, skipped, overlap, plane, region, channel, level, axes
        As in `plot_run`.
    ax : matplotlib.axes.Axes, optional
        Where to draw. None: in a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not there.
    TypeError, ValueError, FileNotFoundError
        As `plot_run`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> show_tiles(np.zeros((30, 40)), (10, 10)).get_title(loc="left")
    'image, 3 x 4 tiles'
    >>> matplotlib.pyplot.close()
    """
    opened = open_image(image, channel=channel, level=level, axes=axes)
    view = limit_view(choose_view(opened, plane, region), opened)
    options = {"tile_shape": tile_shape, "overlap": overlap, "channel": channel, "level": level, "axes": axes}
    grid = _find_grid(image, opened, None, **options)
    ax = _new_axes(view) if ax is None else ax
    _draw_tiles(ax, opened, view, grid, _skipped_array(skipped, grid), None)
    return ax


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as pyplot
    except ImportError as error:
        raise ImportError(
            "blockbuster.plot draws with matplotlib, which is not installed: "
            "python -m pip install 'blockbuster-tiles[plot]'"
        ) from error
    return pyplot


def _size(view: View, n_panels: int, around: float) -> tuple[float, float]:
    """Choose width and height of a figure in inches."""
    height, width = view.sides
    return WIDTH, min(MAX_HEIGHT, max(1.2, (WIDTH / n_panels - 0.5) * height / width)) + around


def _new_axes(view: View) -> Any:
    figure = _pyplot().figure(figsize=_size(view, 1, TITLE), dpi=100, layout="constrained")
    return figure.add_subplot()


def _find_grid(image: Any, opened: Image, report: RunReport | None, **options: Any) -> TileGrid:
    """Return the tiles of a run, or of one with these options, without a channel axis."""
    if report is None:
        planned = plan_run(image, **options).grid
        if planned.ndim == len(opened.shape) + 1 and opened.channel_axis is not None:
            return planned.without_axis(opened.channel_axis)
        return planned
    grid = report.grid_of(opened.shape)
    if grid is None:
        raise ValueError(
            f"report does not know the tiles of an image of shape {opened.shape}; give the image, channel and "
            "level of its run, or leave the report out and give tile_shape."
        )
    return grid


def _skipped_array(skipped: Any, grid: TileGrid) -> np.ndarray | None:
    if skipped is None:
        return None
    found = np.asarray(getattr(skipped, "empty", skipped))
    if found.dtype != bool or found.shape != grid.grid_shape:
        raise ValueError(
            f"skipped is {found.dtype} of shape {found.shape}; it is an array of bool over the grid of "
            f"{grid.grid_shape} tiles, as estimate_empty_tiles gives it for the same tile_shape."
        )
    return found


def _cuts(grid: TileGrid, axis: int, part: slice) -> list[int]:
    """Return the first voxels behind the seams in a part of an axis; none if they are too many."""
    edges = grid.edges[axis]
    inside = edges[(edges > part.start) & (edges < part.stop)]
    return [] if len(inside) > MAX_SEAMS else [int(cut) for cut in inside]


def _show(ax: Any, pixels: np.ndarray, picture: Picture, view: View, interpolation: str = "auto") -> None:
    """Draw pixels at their place in voxels."""
    ax.imshow(pixels, extent=picture.extent, interpolation=interpolation, interpolation_stage="rgba")
    ax.set_xlim(view.columns.start, view.columns.stop)
    ax.set_ylim(view.rows.stop, view.rows.start)
    ax.set_aspect("equal")
    ax.tick_params(labelsize=FONT_SIZE)
    for axis, side in zip("yx", view.sides, strict=True):
        # A short side has room for few numbers.
        ax.locator_params(axis=axis, nbins=max(1, round(5 * side / max(view.sides))))


def _set_title(ax: Any, what: str, image: Image, picture: Picture, view: View) -> None:
    """Say what a panel shows, in lines that fit it."""
    parts = [what, *(f"{name} = {i}" for name, i in zip(image.letters, view.at, strict=False))]
    if view.is_middle:
        parts.append("the middle of the plane")
    if picture.level:
        parts.append(f"{picture.level} level{'s' * (picture.level > 1)} coarser")
    if picture.step > 1:
        parts.append(f"every {picture.step}{ENDINGS.get(picture.step, 'th')} pixel")
    ax.set_title(textwrap.fill(", ".join(parts), LETTERS), fontsize=FONT_SIZE + 1, loc="left")


def _draw_tiles(
    ax: Any, image: Image, view: View, grid: TileGrid, skipped: np.ndarray | None, report: RunReport | None
) -> list[Any]:
    """Draw the image, its tiles and which of them were skipped; return the keys of the legend."""
    from matplotlib import collections, lines, patches

    picture = read_picture(image, view)
    _show(ax, to_grey(picture.pixels), picture, view)
    rows, columns = (_cuts(grid, axis, part) for axis, part in ((-2, view.rows), (-1, view.columns)))
    width = _thickness(rows, columns)
    seams = collections.LineCollection(_straight(rows, columns, view), colors=GRID, linewidths=width)
    ax.add_collection(seams, autolim=False)
    keys: list[Any] = [lines.Line2D([], [], color=GRID, linewidth=1.2, label="tile")]
    if any(grid.halo[-2:]):
        # Of the tile in the middle.
        middles = (*view.at, *((part.start + part.stop) // 2 for part in (view.rows, view.columns)))
        halo = grid.region(_tile_at(grid, middles))[-2:]
        height, width = (part.stop - part.start for part in halo)
        corner = halo[1].start, halo[0].start
        style: dict[str, Any] = {"linestyle": "--", "linewidth": 1.2}
        ax.add_patch(patches.Rectangle(corner, width, height, fill=False, edgecolor=GRID, **style))
        keys.append(lines.Line2D([], [], color=GRID, label="one tile with its halo", **style))
    if skipped is not None:
        style = {"facecolor": "none", "edgecolor": HATCH, "hatch": "////", "linewidth": 0}
        boxes = collections.PolyCollection(_skipped_boxes(skipped, grid, view), **style)
        ax.add_collection(boxes, autolim=False)
        keys.append(patches.Patch(label="skipped tile", **style))
    n_skipped = report.n_skipped if report is not None else 0 if skipped is None else int(skipped.sum())
    title = f"image, {' x '.join(map(str, grid.grid_shape))} tiles"
    _set_title(ax, f"{title}, {n_skipped} skipped" if n_skipped else title, image, picture, view)
    return keys


def _thickness(rows: Sequence[int], columns: Sequence[int]) -> float:
    return 0.4 if len(rows) + len(columns) > FEW_SEAMS else 0.8


def _straight(rows: Sequence[int], columns: Sequence[int], view: View) -> list[list[tuple[int, int]]]:
    """Return lines over the whole view as pairs of points."""
    across = [[(view.columns.start, row), (view.columns.stop, row)] for row in rows]
    down = [[(column, view.rows.start), (column, view.rows.stop)] for column in columns]
    return across + down


def _tile_at(grid: TileGrid, voxel: Iterable[int]) -> tuple[int, ...]:
    return tuple(int(np.searchsorted(cuts, i, "right")) - 1 for cuts, i in zip(grid.edges, voxel, strict=True))


def _skipped_boxes(skipped: np.ndarray, grid: TileGrid, view: View) -> list[list[tuple[int, int]]]:
    """Return the corners of the skipped tiles in a plane."""
    first = _tile_at(grid, (*view.at, view.rows.start, view.columns.start))
    last = _tile_at(grid, (*view.at, view.rows.stop - 1, view.columns.stop - 1))
    boxes = []
    for row in range(first[-2], last[-2] + 1):
        for column in range(first[-1], last[-1] + 1):
            if skipped[(*first[:-2], row, column)]:
                y, x = grid.core((*first[:-2], row, column))[-2:]
                boxes.append([(x.start, y.start), (x.stop, y.start), (x.stop, y.stop), (x.start, y.stop)])
    return boxes


def _draw_labels(
    ax: Any, labels: Image, view: View, grid: TileGrid, report: RunReport | None, image: Image
) -> list[Any]:
    """Draw labels in colours, and seams by what happened there; return the keys of the legend."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows, columns = (_cuts(grid, axis, part) for axis, part in ((-2, view.rows), (-1, view.columns)))
    picture = read_picture(labels, view, rows=rows, columns=columns, exact=True)
    _show_labels(ax, picture, view)
    # Labels in memory have no names of axes; the image may.
    _set_title(ax, _labels_title(picture, report), image, picture, view)
    colours = SEAM_COLOURS / 255
    if picture.level:
        plain = LineCollection(
            _straight(rows, columns, view), colors=[colours[NOTHING]], linewidths=_thickness(rows, columns)
        )
        ax.add_collection(plain, autolim=False)
        return [Line2D([], [], color=colours[NOTHING], label="seam (too coarse to tell more)")]
    pieces = _seam_pieces(picture, view)
    for state, width in ((NOTHING, _thickness(rows, columns)), (JOINED, 1.8), (APART, 2.4)):
        lines = LineCollection(pieces[state], colors=[colours[state]], linewidths=width, capstyle="butt")
        ax.add_collection(lines, autolim=False)
    # As they look on the dark background of labels.
    return [
        Patch(facecolor=colours[state], edgecolor="black", linewidth=0.8, label=text)
        for state, text in STATES.items()
    ]


def _show_labels(
    ax: Any,
    picture: Picture,
    view: View,
    image: np.ndarray | None = None,
    *,
    alpha: float = 1.0,
    outlines: bool = True,
) -> None:
    """Paint labels, few of them enlarged, so that outlines are thinner than voxels."""
    longest = max(picture.pixels.shape)
    zoom = max(1, MIN_PIXELS // longest)
    # What is shrunk would lose its colours by smoothing, and outlines hide small objects.
    outlines = outlines and longest <= 2 * MIN_PIXELS
    pixels = paint_labels(picture.pixels, image, alpha=alpha, outlines=outlines, zoom=zoom)
    _show(ax, pixels, picture, view, interpolation="auto" if outlines else "nearest")


def _seam_pieces(picture: Picture, view: View) -> dict[int, list[list[tuple[int, int]]]]:
    """Cut seams into straight pieces, by what happened there."""
    pieces: dict[int, list[list[tuple[int, int]]]] = {state: [] for state in STATES}
    for row, sides in picture.beside_rows.items():
        for state, start, stop in _pieces_along(seam_states(*sides), view.columns.start):
            pieces[state].append([(start, row), (stop, row)])
    for column, sides in picture.beside_columns.items():
        for state, start, stop in _pieces_along(seam_states(*sides), view.rows.start):
            pieces[state].append([(column, start), (column, stop)])
    return pieces


def _pieces_along(states: np.ndarray, origin: int) -> Iterable[tuple[int, int, int]]:
    """Yield each piece of one state with its first and last edge."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(states)) + 1, [len(states)]])
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield int(states[start]), origin + start, origin + stop


def _labels_title(picture: Picture, report: RunReport | None) -> str:
    if report is not None:
        return f"labels, {report.n_objects} objects in all"
    n_objects = int(np.count_nonzero(np.unique(picture.pixels)))
    return f"labels, {n_objects} object{'s' * (n_objects != 1)}"


def _resampled(base: Picture, labels: Picture) -> np.ndarray:
    """Return an image as grey with a pixel for each one of the labels."""
    left, right, bottom, top = labels.extent
    own_left, own_right, own_bottom, own_top = base.extent
    height, width = labels.pixels.shape
    rows = top + (np.arange(height) + 0.5) * (bottom - top) / height
    columns = left + (np.arange(width) + 0.5) * (right - left) / width
    own_height, own_width = base.pixels.shape
    row = np.clip((rows - own_top) * own_height / (own_bottom - own_top), 0, own_height - 1).astype(int)
    column = np.clip((columns - own_left) * own_width / (own_right - own_left), 0, own_width - 1).astype(int)
    return to_grey(base.pixels[np.ix_(row, column)])
