"""What the threshold of empty tiles skips and loses, beside Otsu's: ``python -m benchmarks.empty_tiles``.

An object is lost where all of its voxels lie in skipped tiles. Of generated images the objects are known, of real
ones, in the folder that the environment variable BLOCKBUSTER_DATA names, they are the stated ground truth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.command_line import begin, plain_parser
from benchmarks.table import format_table
from blockbuster import estimate_empty_tiles, load_ome_zarr
from blockbuster.source import open_source
from blockbuster.stage.empty_threshold import choose_empty_threshold, describe_high_skipped, otsu_threshold

__all__ = ["main"]

TITLES = ("image, tiles of 64", "tiles", "Otsu", "skipped", "lost", "chosen", "skipped", "lost", "warned")
SIDE, TILE = 512, 64
Case = tuple[str, np.ndarray, np.ndarray | None]


def discs(n: int, radius: float, seed: int) -> np.ndarray:
    """Discs anywhere, as a mask."""
    outside = np.ones((SIDE, SIDE), bool)
    rows, columns = np.random.default_rng(seed).integers(0, SIDE, (n, 2)).T
    outside[rows, columns] = False
    return np.asarray(ndimage.distance_transform_edt(outside) <= radius)


def generated() -> Iterator[Case]:
    """Yield discs of +3000 in noise of 20 around 500, what can be wrong with such images, and their objects."""
    noise = np.random.default_rng(5).normal(500, 20, (SIDE, SIDE))
    bright, few, x = discs(60, 2, 1), discs(30, 0, 1), np.arange(SIDE)
    image = noise + 3000 * bright
    specks = noise + 3000 * few
    specks[10, 20] = specks[400, 300] = 60_000
    dim = discs(40, 4, 2)
    dark = discs(20, 20, 6)
    uneven = np.random.default_rng(8).poisson(
        np.where(x < 256, 30, 5) + 900 * discs(12, 6, 9) + 60 * discs(12, 4, 10)
    )
    yield "sparse", image.astype("uint16"), bright
    yield "30 voxels, two specks of 60,000", specks.astype("uint16"), few
    yield "dim ones besides, +300", (image + 300 * dim).astype("uint16"), bright | dim
    yield "dim ones besides, uneven background", uneven.astype("uint16"), discs(12, 6, 9) | discs(12, 4, 10)
    yield "low contrast, +250", (noise + 250 * bright).astype("uint16"), bright
    yield "two backgrounds", (image + 600 * (x > 300)).astype("uint16"), bright
    yield "black padding, a third", np.where(x < 180, 0, image).astype("uint16"), bright & (x >= 180)
    yield "black padding, two thirds", np.where(x < 330, 0, image).astype("uint16"), bright & (x >= 330)
    yield "padding of NaN, a third", np.where(x < 192, np.nan, image).astype("float32"), bright & (x >= 192)
    yield "background 0, objects 5", (5 * bright).astype("uint8"), bright
    yield "photon counts of 0.5", np.random.default_rng(3).poisson(0.5 + 40 * bright).astype("uint8"), bright
    yield "constant", np.full((SIDE, SIDE), 7, "uint16"), None
    yield "noise alone", noise.astype("uint16"), None
    yield "dark discs, bright background", np.clip(noise / 10 + 150 - 100 * dark, 0, 255).astype("uint8"), dark
    yield "mostly saturated", np.minimum(noise - 440 * dark, 255).astype("uint8"), None
    yield "at 2^60, uint64", image.astype("uint64") + 2**60, bright
    yield "times 1e-9, float32", (image * 1e-9).astype("float32"), bright


def real(folder: Path) -> Iterator[Case]:
    """Yield real images, with their ground truth where there is one."""
    import tifffile
    from PIL import Image

    mosaic = folder / "dsb2018_mosaic"
    truth = tifffile.imread(mosaic / "mosaic_mask.tif")
    yield "mosaic of 256 photographs", tifffile.imread(mosaic / "mosaic_image.tif"), truth
    nuclei = folder / "stardist_samples"
    yield "dense nuclei", tifffile.imread(nuclei / "img2d.tif"), tifffile.imread(nuclei / "mask2d.tif")
    store = folder / "ome_zarr_third_party" / "ngffzarr_v04_hela_cyx.zarr"
    for channel in range(3):
        yield f"HeLa cells, channel {channel}", np.asarray(load_ome_zarr(store, channel=channel)), None
    yield "histology, green", np.asarray(Image.open(folder / "histology" / "HE_example.tif"))[..., 1], None


def measure(name: str, image: np.ndarray, objects: np.ndarray | None) -> list[str]:
    """Skip by both thresholds, and count what is lost."""
    source = open_source(image)
    threshold, background = choose_empty_threshold(source)
    otsu = otsu_threshold(source)
    found = [estimate_empty_tiles(image, (TILE, TILE), threshold=value) for value in (otsu, threshold)]
    assert found[1].maxima is not None
    said = describe_high_skipped(found[1].maxima[found[1].empty].tolist(), background)
    cells = [name, str(found[0].n_tiles)]
    for each in found:
        lost = "-" if objects is None else str(_count_lost(objects, each.empty))
        cells += [f"{each.threshold:.4g}", str(each.n_empty), lost]
    return [*cells, "yes" if said else "no"]


def _count_lost(objects: np.ndarray, empty: np.ndarray) -> int:
    labels = ndimage.label(objects)[0] if objects.dtype == bool else objects
    skipped = empty.repeat(TILE, axis=0).repeat(TILE, axis=1)[: labels.shape[0], : labels.shape[1]]
    return np.setdiff1d(np.unique(labels), np.append(labels[~skipped], 0)).size


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    options = begin(plain_parser("empty_tiles", __doc__, "generated images alone"), arguments)
    folder = os.environ.get("BLOCKBUSTER_DATA")
    cases = [*generated(), *(real(Path(folder)) if folder and not options.small else ())]
    print(format_table(TITLES, [measure(*case) for case in cases]))


if __name__ == "__main__":
    main()
