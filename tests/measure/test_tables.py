"""The table of a run against that of the whole label image, by scikit-image."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from measure.oracle import at_border, fault, tiles_spanned, whole_table
from strategies import Unsteady, small_tile_shapes, wide_shapes

from blockbuster import tile_process
from blockbuster.grid import TileGrid

VALUES = ["intensity_mean", "intensity_min", "intensity_max", "intensity_sum", "intensity_std"]
DTYPES = ["bool", "uint8", "int8", "uint16", ">u2", "int16", "uint32", "int32", "float32", "float64"]


def values_of(dtype, shape, seed):
    """Values as images have them, none of them zero or NaN where a mask is taken from them."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(100, 30, shape).astype(dtype)
    if dtype == "bool":
        return random.random(shape) < 0.5
    info = np.iinfo(dtype)
    return random.integers(info.min, info.max, shape, endpoint=True, dtype=np.int64).astype(dtype)


@st.composite
def cases(draw):
    """An image with channels, a function of the first, tiles, a halo and a rule."""
    shape = draw(wide_shapes((2, 3)))
    dtype = draw(st.sampled_from(DTYPES))
    n_channels = draw(st.integers(1, 3))
    values = values_of(dtype, (n_channels, *shape), draw(st.integers(0, 99)))
    tile = draw(small_tile_shapes(shape))
    options = {
        "tile_shape": tile,
        "overlap": draw(st.integers(0, 4)),
        "merge": draw(st.sampled_from(["touch", "agree", "none"])),
        "tiles_per_task": draw(st.sampled_from([None, 1, 2, 7])),
        "sequential_labels": draw(st.booleans()),
    }
    seed, noise = draw(st.integers(0, 99)), draw(st.sampled_from([0.0, 0.1, 0.3]))
    return values, Unsteady(seed, noise, 0, draw(st.booleans())), options


class OfMask:
    """A function of a mask that is drawn into the first channel, for what sees all of them."""

    def __init__(self, fn):
        self.fn = fn

    def __call__(self, tile):
        return self.fn(tile[0])


@settings(max_examples=examples(120))
@given(cases())
@pytest.mark.filterwarnings("ignore::blockbuster.BlockbusterWarning")
def test_a_table_is_that_of_the_whole_label_image(case):
    values, fn, options = case
    mask = np.random.default_rng(5).random(values.shape[1:]) < 0.6
    # fn sees the mask as one more channel, and nothing of the others.
    image = np.concatenate([mask[None].astype(values.dtype), values])
    labels, report = tile_process(
        image,
        OfMask(fn),
        axes="cyx" if mask.ndim == 2 else "czyx",
        channel=None,
        measure=["extent", *VALUES],
        return_report=True,
        **options,
    )
    channels = [str(i) for i in range(len(image))]
    table, expected = report.objects, whole_table(labels, np.moveaxis(image, 0, -1), channels)
    assert not fault(table, expected)
    grid = TileGrid.regular(mask.shape, options["tile_shape"], (0,) * mask.ndim)
    assert np.array_equal(table["n_tiles"], tiles_spanned(labels, grid.lengths))
    assert np.array_equal(table["touches_border"], at_border(labels))
