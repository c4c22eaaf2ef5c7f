"""Label arrays in the byte order of another machine mean what those of this one mean, in every function (B28)."""

import dask.array as da
import numpy as np
import pytest
import zarr
from outcomes import assert_same_objects
from scipy import ndimage
from stretches import grouped

from blockbuster import relabel_sequential_zarr, suggest_overlap, tile_process, zarr_native_merge
from blockbuster.kernels.positions import keep_positions_apart
from blockbuster.kernels.stretches import StretchFinder
from blockbuster.output.downsample import Coarsening
from blockbuster.report.colours import colour_labels, mark_outlines, seam_states

IMAGE = ndimage.gaussian_filter(np.random.default_rng(2).random((48, 64)), 1.5) > 0.5
LABELS = ndimage.label(IMAGE)[0]
SPARSE = np.where(LABELS, LABELS * 10**8, 0)
ORDERS = [">i2", ">u2", ">i4", ">u4", ">i8", ">u8", "<i4", "<u8"]
every_order = pytest.mark.parametrize("order", ORDERS)


def store(path, labels, order, component="labels", zarr_format=2):
    group = zarr.create_group(path, zarr_format=zarr_format)
    group.create_array(component, data=labels.astype(order), chunks=(16, 32))
    assert group[component].dtype == np.dtype(order)
    return path


def read(path, component="labels"):
    return zarr.open_array(path / component, mode="r")


@every_order
@pytest.mark.parametrize("labels", [LABELS * 3, SPARSE], ids=["dense", "sparse"])
def test_B28_labels_of_any_byte_order_are_renumbered_in_place(order, labels, tmp_path):
    if labels.max() > np.iinfo(order).max:
        labels = labels // labels.max() * 30_000 + LABELS
    path = store(tmp_path / "x.zarr", labels, order)
    assert relabel_sequential_zarr(path) == LABELS.max()
    assert read(path).dtype == np.dtype(order)
    np.testing.assert_array_equal(read(path)[...], LABELS)


@every_order
def test_B28_staged_labels_of_any_byte_order_are_merged(order, tmp_path):
    staged = np.zeros_like(LABELS)
    for rows in (slice(0, 16), slice(16, 32), slice(32, 48)):
        for columns in (slice(0, 32), slice(32, 64)):
            staged[rows, columns] = ndimage.label(IMAGE[rows, columns])[0]
    path = store(tmp_path / "x.zarr", staged, order)
    assert zarr_native_merge(path, "labels", tmp_path / "y.zarr", "labels") == LABELS.max()
    assert_same_objects(read(tmp_path / "y.zarr")[...], LABELS)


@every_order
@pytest.mark.parametrize("merge", ["touch", "agree"])
def test_B28_fn_may_return_any_byte_order(order, merge):
    labels = tile_process(
        IMAGE.astype(order), lambda tile: ndimage.label(tile)[0].astype(order), tile_shape=(16, 32), merge=merge,
        overlap=12,
    )  # fmt: skip
    assert_same_objects(labels, LABELS)


@every_order
def test_B28_the_halo_is_suggested_alike(order):
    def ask(order):
        advice = suggest_overlap(
            da.from_array(IMAGE.astype("uint8"), chunks=16),
            lambda tile: ndimage.label(tile)[0].astype(order),
            (16, 32),
            candidates=(0, 4),
        )
        return advice.overlap, [(row.overlap, row.score) for row in advice.rows]

    assert ask(order) == ask("=i8")


BOX = slice(0, 48), slice(0, 64)


def stretches_and_count(labels):
    tile, count = StretchFinder().find(labels, BOX)
    return tile.rows, tile.stretches, count


def filled(labels):
    tile, count = StretchFinder().find(labels, BOX)
    out = np.zeros(labels.shape, np.int64)
    grouped(tile).fill(np.zeros(1, np.int64), BOX, np.arange(count + 1)[::-1].copy(), out)
    return out


FUNCTIONS = {
    "colours": colour_labels,
    "outlines": mark_outlines,
    "seams": lambda labels: seam_states(labels[8], labels[9]),
    "halved": lambda labels: Coarsening((48, 64), (24, 32), (2.0, 2.0)).coarsen(
        labels, (slice(0, 24), slice(0, 32))
    ),
    "thirds": lambda labels: Coarsening((48, 64), (16, 22), (3.0, 3.0)).coarsen(
        labels, (slice(0, 16), slice(0, 22))
    ),
    "apart": lambda labels: keep_positions_apart(labels, (0,)),
    "stretches": stretches_and_count,
    "filled": filled,
}


@every_order
@pytest.mark.parametrize("name", FUNCTIONS)
def test_B28_what_is_made_of_labels_in_memory_is_the_same(name, order):
    expected, found = (
        FUNCTIONS[name](LABELS.astype(dtype)) for dtype in (np.dtype(order).newbyteorder("="), order)
    )
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


@every_order
def test_B28_labels_of_any_byte_order_are_drawn(order, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    from blockbuster.plot import show_labels

    path = store(tmp_path / "x.zarr", LABELS, order)
    axes = [show_labels(IMAGE.astype("uint8"), labels) for labels in (path / "labels", LABELS)]
    pictures = [[image.get_array() for image in ax.get_images()] for ax in axes]
    assert len(pictures[0]) == len(pictures[1]) > 0
    for one, other in zip(*pictures, strict=True):
        np.testing.assert_array_equal(one, other)
