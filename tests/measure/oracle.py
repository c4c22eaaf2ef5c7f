"""The table of objects of a whole label image, by scikit-image and by counting."""

import numpy as np
from skimage.measure import regionprops_table

EXACT = ("label", "area", "bbox")
SHAPES = ("centroid", "equivalent_diameter_area", "extent")
# Roots of what may be nothing but rounding: their squares are compared.
LENGTHS = ("axis_major_length", "axis_minor_length")


def whole_table(labels, values=None, channels=()):
    """Columns by name, as scikit-image gives them for the whole image.

    `values` are those of the voxels, with an axis of channels at the end where `channels` names them.
    """
    names = [*EXACT, *SHAPES]
    if labels.ndim in (2, 3):
        names += [*LENGTHS, "inertia_tensor"]
    found = regionprops_table(labels, properties=names)
    if values is None or not len(found["label"]):
        return found
    for number, channel in enumerate(channels or ("",)):
        one = values[..., number] if channels else values
        suffix = f"-{channel}" if channel else ""
        by_label = [one[labels == label] for label in found["label"]]
        exact = one.dtype if one.dtype.kind == "f" else np.int64
        found[f"intensity_min{suffix}"] = np.array([v.min() for v in by_label], exact)
        found[f"intensity_max{suffix}"] = np.array([v.max() for v in by_label], exact)
        found[f"intensity_sum{suffix}"] = np.array(
            [v.astype(np.float64 if v.dtype.kind == "f" else np.int64).sum() for v in by_label]
        )
        found[f"intensity_mean{suffix}"] = np.array([v.astype(np.float64).mean() for v in by_label])
        found[f"intensity_std{suffix}"] = np.array([v.astype(np.float64).std() for v in by_label])
    return found


def tiles_spanned(labels, lengths):
    """How many tiles the voxels of each label lie in, in order of labels."""
    numbers = np.zeros(labels.shape, np.int64)
    for axis, parts in enumerate(lengths):
        along = np.repeat(np.arange(len(parts)), parts)
        shape = [1] * labels.ndim
        shape[axis] = len(along)
        numbers = numbers * len(parts) + along.reshape(shape)
    return np.array([len(np.unique(numbers[labels == label])) for label in np.unique(labels[labels > 0])])


def at_border(labels):
    """Whether each label has a voxel at the border of the image."""
    inner = np.zeros(labels.shape, bool)
    inner[(slice(1, -1),) * labels.ndim] = True
    outer = set(np.unique(labels[~inner]).tolist())
    return np.array([label in outer for label in np.unique(labels[labels > 0]).tolist()], bool)


def fault(table, expected):
    """Say which columns of a table are not the expected ones; empty where all are."""
    for name, column in expected.items():
        found = np.asarray(table[name])
        if found.shape != np.shape(column):
            return f"{name} has {len(found)} rows, not {len(column)}"
        if np.asarray(column).dtype.kind in "iub":
            if not np.array_equal(found, column):
                return f"{name} is {found}, not {column}"
            continue
        power = 2 if name in LENGTHS else 1
        if not np.allclose(found**power, np.asarray(column, np.float64) ** power, rtol=1e-9, atol=1e-9):
            return f"{name} is {found}, not {column}"
    return ""
