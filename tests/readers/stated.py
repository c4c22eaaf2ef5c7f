"""What a store's own files say, read without any library of OME-Zarr, and what must be in a label image."""

import itertools
import json

import numpy as np
import zarr
from makers import THRESHOLD
from scipy import ndimage


def attributes(folder):
    """The OME-NGFF metadata of a group."""
    if (folder / ".zattrs").is_file():
        return json.loads((folder / ".zattrs").read_text())
    return json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]


def geometry(folder):
    """Axes, units, scales and translations of an image without its channel axis, and the paths of its levels."""
    (image,) = attributes(folder)["multiscales"]
    kept = [number for number, axis in enumerate(image["axes"]) if axis["name"] != "c"]

    def along_kept(dataset, kind):
        found = [part[kind] for part in dataset["coordinateTransformations"] if part["type"] == kind]
        return [found[0][number] for number in kept] if found else None

    return {
        "axes": "".join(image["axes"][number]["name"] for number in kept),
        "units": [image["axes"][number].get("unit") for number in kept],
        "scales": [along_kept(dataset, "scale") for dataset in image["datasets"]],
        "translations": [along_kept(dataset, "translation") for dataset in image["datasets"]],
        "paths": [dataset["path"] for dataset in image["datasets"]],
    }


def arrays(folder):
    """The pixels of all levels of an image."""
    return [zarr.open_array(folder / path, mode="r")[...] for path in geometry(folder)["paths"]]


def segment(tile, threshold=THRESHOLD):
    """Label bright voxels; those that touch by faces are one object."""
    return ndimage.label(tile > threshold)[0]


def objects(image, axes):
    """The labels of a whole image; times are apart, the last channel is taken."""
    if "c" in axes:
        image, axes = image.take(-1, axis=axes.index("c")), axes.replace("c", "")
    if "t" not in axes:
        return segment(image)
    labels = np.zeros(image.shape, int)
    for time, plane in enumerate(image):
        found = segment(plane)
        labels[time] = np.where(found, found + labels.max(), 0)
    return labels


def majority_fault(fine, coarse, ratios):
    """Say which voxels of a coarse level have not the label that most of theirs have; empty where all do.

    Where `ratios` are no whole numbers, a voxel must have one of the labels of the voxels that it covers.
    """
    ratios = np.round(ratios, 9)
    votes = [fine[np.ix_(*part)] for part in _covered(fine.shape, coarse.shape, ratios)]
    chosen = sum(vote == coarse for vote in votes)
    if not np.array_equal(ratios, ratios.astype(int)):
        wrong = chosen == 0
    else:
        most = np.max([np.where(vote, sum(vote == other for other in votes), 0) for vote in votes], axis=0)
        background = sum(vote == 0 for vote in votes)
        # Where as many are background as have a label, it is the label's.
        wrong = np.where(coarse, chosen < np.maximum(most, background), background <= most)
    return f"wrong at {np.argwhere(wrong)[:5].tolist()}" if wrong.any() else ""


def _covered(fine, coarse, ratios):
    """Index arrays of the first, second ... voxel that coarse ones cover; beyond the border it is the last."""
    axes = []
    for n, m, ratio in zip(fine, coarse, ratios, strict=True):
        firsts = np.floor(np.arange(m) * ratio).astype(int)
        n_covered = int(ratio) if ratio == int(ratio) else int(ratio) + 2
        axes.append([np.minimum(firsts + step, n - 1) for step in range(n_covered)])
    return itertools.product(*axes)
