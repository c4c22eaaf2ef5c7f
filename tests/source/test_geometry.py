"""Where an image lies in the world, as far as its metadata say it in scales and translations."""

import pytest
import zarr

from blockbuster.source.geometry import Geometry, LevelGeometry, read_geometry

AXES = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
SCALE = {"type": "scale", "scale": [1.0, 0.5, 0.5]}
SHIFT = {"type": "translation", "translation": [0.0, 3.0, 4.0]}
MATRIX = [[1, 0, 0, 0], [0, 0.8, -0.6, 9], [0, 0.6, 0.8, 9]]


def written(path, own, shared=None, n_levels=1):
    """The geometry of an image with these transformations, of each level and of all."""
    group = zarr.create_group(path)
    for number in range(n_levels):
        group.create_array(str(number), shape=(2, 8 // 2**number, 8 // 2**number), dtype="uint8")
    datasets = [{"path": str(number), "coordinateTransformations": own} for number in range(n_levels)]
    image = {
        "axes": AXES,
        "datasets": datasets,
        **({} if shared is None else {"coordinateTransformations": shared}),
    }
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return read_geometry(path)


def test_scales_and_translations_are_taken_in_their_order(tmp_path):
    geometry = written(tmp_path / "image.zarr", [SCALE, SHIFT], [SCALE, {"type": "identity"}])
    assert geometry.levels[0].transformations == (SCALE, SHIFT)
    assert geometry.transformations == (SCALE,)
    assert geometry.left_out == ()


LEFT_OUT = {
    "affine": ({"type": "affine", "affine": MATRIX}, "'affine'"),
    "rotation": ({"type": "rotation", "rotation": [[0, 1], [1, 0]]}, "'rotation'"),
    "sequence": ({"type": "sequence", "transformations": [SCALE]}, "'sequence'"),
    "in a file": ({"type": "scale", "path": "scales"}, "'scale' in a file of its own"),
    "without a type": ({"scale": [1, 1, 1]}, "'None'"),
    "control characters": ({"type": "\x1b[31m" + 99 * "a"}, repr("\x1b[31m" + 35 * "a")),
}


@pytest.mark.parametrize("where", ["levels", "image"])
@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_labels_cannot_take_over_is_listed_once(kind, where, tmp_path):
    part, name = LEFT_OUT[kind]
    own, shared = ([SCALE, part], [SHIFT]) if where == "levels" else ([SCALE], [part, SHIFT])
    geometry = written(tmp_path / "image.zarr", own, shared, n_levels=2)
    assert [level.transformations for level in geometry.levels] == [(SCALE,), (SCALE,)]
    assert geometry.transformations == (SHIFT,)
    assert geometry.left_out == geometry.without_channel().from_level(1).left_out == (name,)


def test_a_further_level_goes_on_from_a_first_one_without_translation():
    """Whose writer left it out, since it is none."""
    axes = ({"name": "x", "type": "space"},)
    first = LevelGeometry((16,), ({"type": "scale", "scale": [1.0]},))
    second = LevelGeometry(
        (8,), ({"type": "scale", "scale": [2.0]}, {"type": "translation", "translation": [0.5]})
    )
    third = Geometry("0.5", axes, (first, second)).with_levels(3).levels[2]
    assert third.shape == (4,)
    assert third.transformations == (
        {"type": "scale", "scale": [4.0]},
        {"type": "translation", "translation": [1.5]},
    )
