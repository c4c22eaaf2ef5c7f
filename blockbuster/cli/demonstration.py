"""The demo: a real image, segmented in tiles, merged, and compared with the untiled result."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from blockbuster.grid import TileGrid
from blockbuster.process import tile_process
from blockbuster.report.colours import draw_seams, enlarge, paint_labels, to_grey
from blockbuster.source import open_source
from blockbuster.stage.empty_threshold import otsu_threshold

FOLDER = "blockbuster-demo"
SIGMA = 1.5
RADIUS = 6
TILE_SHAPE = (128, 128)
OVERLAP = 16
# Not a multiple of the tile: tiles need not match the chunks.
CHUNKS = (200, 200)

ZOOM = 2
MARGIN = 24
CAPTION = 64
FONT_SIZE = 44
INK = (30, 26, 51)
OPACITY = 0.75
SEAM_WIDTH = 4


@dataclass(frozen=True)
class SmoothAndLabel:
    """Smooth a tile and label what is above a threshold.

    A pixel's label depends on the pixels at most `RADIUS` away and on what it is connected to, so
    a halo at least that deep makes the tiled result equal the untiled one exactly.

    Parameters
    ----------
    threshold : float
        Of the whole image; a tile's own would differ from its neighbours'.
    """

    threshold: float

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Label a tile, or a whole image."""
        from scipy import ndimage

        smooth = ndimage.gaussian_filter(tile, SIGMA, radius=RADIUS, output=np.float32)
        return np.asarray(ndimage.label(smooth > self.threshold)[0])


def run_demo(folder: str = FOLDER) -> bool:
    """Segment a microscopy image in tiles, compare with the untiled result, and draw both.

    Parameters
    ----------
    folder : str
        A new or empty folder that takes the image, the labels and the picture.

    Returns
    -------
    bool
        Whether the tiled and the untiled labels are the same partition.

    Raises
    ------
    FileExistsError
        If the folder holds anything.

    Notes
    -----
    Needs no download: the image ships with scikit-image. It prints what it does, and takes a few
    seconds, most of them for compiling when it runs for the first time.
    """
    import zarr
    from ome_zarr.writer import write_image
    from skimage.data import immunohistochemistry
    from skimage.io import imsave

    home = _make_folder(folder)
    store, target, picture = (os.path.join(home, name) for name in ("image.ome.zarr", "labels.zarr", "demo.png"))
    photo = immunohistochemistry()
    with _step("image") as say:
        image = haematoxylin_channel(photo)
        group = zarr.open_group(store, mode="w-", zarr_format=3)
        write_image(image, group, axes="yx", storage_options={"chunks": CHUNKS})
        say(f"haematoxylin of skimage.data.immunohistochemistry(), {_by(image.shape)} {image.dtype}", store)
    with _step("tiled") as say:
        fn = SmoothAndLabel(otsu_threshold(open_source(store)))
        stored, report = tile_process(
            store, fn, tile_shape=TILE_SHAPE, overlap=OVERLAP, write_to=target, return_report=True
        )
        labels = np.asarray(stored)
        say(
            f"{report.n_objects} objects from {report.n_tiles} tiles of {_by(TILE_SHAPE)}, halo {OVERLAP}", target
        )
    with _step("untiled") as say:
        untiled = fn(image)
        say(f"{untiled.max()} objects")
    equal = same_partition(labels, untiled)
    print(f"result    tiled and untiled partitions are {'equal' if equal else 'DIFFERENT'}")
    with _step("picture") as say:
        grid = TileGrid.regular(image.shape, TILE_SHAPE, (0, 0))
        imsave(picture, draw_picture(photo, image, labels, grid), check_contrast=False)
        say(picture)
    store, target = (shlex.quote(os.path.join(folder, name)) for name in ("image.ome.zarr", "otsu.zarr"))
    print(f"next      blockbuster segment {store} --fn otsu --tile-shape 256,256 --write-to {target}")
    print("          blockbuster segment YOUR.ome.zarr --fn your_module:your_function --write-to labels.zarr")
    return equal


def haematoxylin_channel(photo: np.ndarray) -> np.ndarray:
    """Separate the stain of the nuclei from a photograph.

    Parameters
    ----------
    photo : (h, w, 3) ndarray of uint8
        Tissue stained with haematoxylin and DAB, RGB.

    Returns
    -------
    (h, w) ndarray of uint8
        Bright where there is much haematoxylin.

    References
    ----------
    A. C. Ruifrok, D. A. Johnston (2001), Quantification of histochemical staining by color
    deconvolution. Analytical and Quantitative Cytology and Histology 23(4): 291-299.

    Examples
    --------
    >>> photo = np.array([[[60, 50, 150], [250, 250, 250]]], np.uint8)
    >>> haematoxylin_channel(photo).tolist()
    [[255, 0]]
    """
    from skimage.color import rgb2hed
    from skimage.exposure import rescale_intensity

    return np.asarray(rescale_intensity(rgb2hed(photo)[..., 0], out_range=np.uint8))


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two label images show the same objects, whatever their ids.

    Parameters
    ----------
    one, other : ndarray of int, same shape
        Labels; 0 is background.

    Returns
    -------
    bool
        True if both have the same background and each object of one is exactly one of the other.

    Examples
    --------
    >>> a = np.array([1, 1, 0, 2])
    >>> same_partition(a, np.array([7, 7, 0, 3])), same_partition(a, np.array([5, 5, 0, 5]))
    (True, False)
    """
    if one.shape != other.shape or not np.array_equal(one == 0, other == 0):
        return False
    ids, of_one = np.unique(one, return_inverse=True)
    other_ids, of_other = np.unique(other, return_inverse=True)
    pairs = np.unique(of_one.ravel() * len(other_ids) + of_other.ravel())
    return len(pairs) == len(ids) == len(other_ids)


def draw_picture(photo: np.ndarray, image: np.ndarray, labels: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Draw the photograph, what the tiles found, and the merged objects side by side.

    Parameters
    ----------
    photo : (h, w, 3) ndarray of uint8
        What was photographed.
    image : (h, w) ndarray of uint8
        What was segmented.
    labels : (h, w) ndarray of int
        The merged labels.
    grid : TileGrid
        The tiles.

    Returns
    -------
    (H, W, 3) ndarray of uint8
        ``W = 3 * ZOOM * w + 4 * MARGIN``, ``H = ZOOM * h + 2 * MARGIN + CAPTION``.
    """
    from PIL import Image, ImageDraw, ImageFont

    pieces = np.zeros(grid.shape, np.int64)
    for number, core in enumerate(map(grid.core, grid.indices())):
        pieces[core] = np.where(labels[core] > 0, labels[core].astype(np.int64) * grid.n_tiles + number, 0)
    n_objects, n_pieces = (np.count_nonzero(np.unique(found)) for found in (labels, pieces))
    panels = {
        "image": enlarge(photo, ZOOM),
        f"{grid.n_tiles} tiles: {n_pieces} pieces (red: cut)": _draw_labels(image, pieces, grid),
        f"merged: {n_objects} objects (white: joined)": _draw_labels(image, labels, grid),
    }
    # Side by side on white, each under its caption.
    top = MARGIN + CAPTION
    frame = ((top, MARGIN), (MARGIN, 0), (0, 0))
    row = np.concatenate([np.pad(panel, frame, constant_values=255) for panel in panels.values()], axis=1)
    picture = Image.fromarray(np.pad(row, ((0, 0), (0, MARGIN), (0, 0)), constant_values=255))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    left = MARGIN
    for caption, panel in panels.items():
        draw.text((left, MARGIN), caption, fill=INK, font=font)
        left += panel.shape[1] + MARGIN
    return np.asarray(picture)


def _draw_labels(image: np.ndarray, labels: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Paint labels over the image, and the seams by what happened there."""
    rows, columns = (edges[1:-1].tolist() for edges in grid.edges)
    pixels = paint_labels(labels, to_grey(image), alpha=OPACITY, zoom=ZOOM)
    return draw_seams(pixels, labels, rows, columns, zoom=ZOOM, width=SEAM_WIDTH)


def _make_folder(folder: str) -> str:
    """Make the folder; one that holds anything is left alone."""
    home = os.path.abspath(os.path.expanduser(folder))
    if os.path.lexists(home) and not os.path.isdir(home):
        raise FileExistsError(f"{home} is a file; name another folder with --folder.")
    if os.path.isdir(home) and os.listdir(home):
        raise FileExistsError(f"{home} is not empty and is left alone; name another folder with --folder.")
    os.makedirs(home, exist_ok=True)
    return home


@contextmanager
def _step(name: str) -> Iterator[Callable[..., None]]:
    """Print what a step did, and how long it took."""
    start = time.perf_counter()
    said: list[str] = []
    yield lambda *lines: said.extend(lines)
    seconds = time.perf_counter() - start
    print(f"{name:<9} {said[0]}  ({seconds:.1f} s)", *said[1:], sep=f"\n{'':<9} ")


def _by(numbers: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in numbers)
