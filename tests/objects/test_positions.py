"""Where corners of voxels are: the metadata say where centres are."""

import numpy as np
import pytest
import zarr
from outlined import read_features

from blockbuster import export_polygons

LABELS = np.zeros((8, 12), "int32")
LABELS[2:4, 4:8] = 5


def write_labels(path, scales, translations=None, shared=None, unit="micrometer"):
    """A label image whose levels are every second voxel of the one before."""
    group = zarr.create_group(path)
    datasets = []
    for level, scale in enumerate(scales):
        data = LABELS[:: 2**level, :: 2**level]
        group.create_array(str(level), data=np.ascontiguousarray(data))
        parts = [] if scale is None else [{"type": "scale", "scale": scale}]
        if translations:
            parts.append({"type": "translation", "translation": translations[level]})
        datasets.append({"path": str(level), **({"coordinateTransformations": parts} if parts else {})})
    axes = [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in "yx"]
    image = {"axes": axes, "datasets": datasets}
    if shared:
        image["coordinateTransformations"] = shared
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image], "image-label": {}}
    return str(path)


def box_of(path, labels, **options):
    """Least x and y, largest x and y of the only object."""
    export_polygons(labels, path, **options)
    (ring,) = read_features(path)[0]["geometry"]["coordinates"]
    return [*np.min(ring, axis=0), *np.max(ring, axis=0)]


def test_pixels_count_from_the_corner_of_the_first_voxel(tmp_path):
    labels = write_labels(tmp_path / "labels.zarr", [[0.5, 0.25]], [[10, 20]])
    assert box_of(tmp_path / "out.geojson", labels) == [4, 2, 8, 4]
    assert box_of(tmp_path / "array.geojson", LABELS) == [4, 2, 8, 4]


def test_units_begin_half_a_voxel_before_the_first_centre(tmp_path):
    labels = write_labels(tmp_path / "labels.zarr", [[0.5, 0.25]], [[10, 20]])
    x = [20 + 0.25 * (i - 0.5) for i in (4, 8)]
    y = [10 + 0.5 * (i - 0.5) for i in (2, 4)]
    assert box_of(tmp_path / "out.geojson", labels, coordinates="units") == [x[0], y[0], x[1], y[1]]


def test_what_holds_for_all_levels_is_applied_after_their_own(tmp_path):
    shared = [{"type": "scale", "scale": [2, 2]}, {"type": "translation", "translation": [1, 3]}]
    labels = write_labels(tmp_path / "labels.zarr", [[0.5, 0.25]], [[10, 20]], shared)
    x = [2 * (20 + 0.25 * (i - 0.5)) + 3 for i in (4, 8)]
    y = [2 * (10 + 0.5 * (i - 0.5)) + 1 for i in (2, 4)]
    assert box_of(tmp_path / "out.geojson", labels, coordinates="units") == [x[0], y[0], x[1], y[1]]


@pytest.mark.parametrize("translations", [[[10, 20], [10.25, 20.125]], None])
def test_coarser_levels_are_in_pixels_of_the_finest(translations, tmp_path):
    labels = write_labels(tmp_path / "labels.zarr", [[0.5, 0.25], [1, 0.5]], translations)
    # Without a shift the metadata say that centres of first voxels are at one place, not corners.
    shift = 0 if translations else -0.5
    expected = [4 + shift, 2 + shift, 8 + shift, 4 + shift]
    assert box_of(tmp_path / "out.geojson", labels, level=1) == expected


def test_coarser_levels_without_scales_are_stretched_to_the_finest(tmp_path):
    labels = write_labels(tmp_path / "labels.zarr", [None, None])
    assert box_of(tmp_path / "out.geojson", labels, level=1) == [4, 2, 8, 4]


@pytest.mark.parametrize("scale", [None, [0.5, 0]])
def test_units_without_a_scale_are_refused(scale, folder):
    labels = write_labels(folder / "labels.zarr", [scale])
    with pytest.raises(ValueError, match=r'give no scale.*coordinates="pixels"'):
        export_polygons(labels, "out.geojson", coordinates="units")
    assert [path.name for path in folder.iterdir()] == ["labels.zarr"]


def test_units_have_no_more_digits_than_they_need(tmp_path):
    labels = write_labels(tmp_path / "labels.zarr", [[0.1, 0.3]])
    export_polygons(labels, tmp_path / "out.geojson", coordinates="units")
    assert (
        '"coordinates":[[[1.05,0.15],[2.25,0.15],[2.25,0.35],[1.05,0.35],[1.05,0.15]]]'
        in (tmp_path / "out.geojson").read_text()
    )


def test_level_that_is_not_there_is_refused(tmp_path):
    labels = write_labels(tmp_path / "labels.zarr", [[1, 1]])
    with pytest.raises(ValueError, match="level is 1"):
        export_polygons(labels, tmp_path / "out.geojson", level=1)
