"""What is in a plate, a well, a bioformats2raw collection, and any other group."""

import numpy as np
import pytest
import zarr
from collections_of_images import write_bioformats2raw, write_plate
from zarr.storage import LocalStore

from blockbuster.source import open_source
from blockbuster.source.collection import MAX_OPENED, find_images
from blockbuster.source.location import locate

PIXELS = np.arange(20, dtype="uint8").reshape(4, 5)


def found_in(path, **options):
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    return find_images(group, locate(path), **options)


@pytest.fixture
def looked_for(monkeypatch):
    """Folders whose metadata were looked for on the disk."""
    folders = []
    get = LocalStore.get

    async def noting(store, key, *arguments, **options):
        folders.append(f"{store.root}/{key}".rpartition("/")[0])
        return await get(store, key, *arguments, **options)

    monkeypatch.setattr(LocalStore, "get", noting)
    return folders


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_B15_a_large_plate_is_listed_from_its_metadata_with_few_groups_opened(tmp_path, zarr_format, looked_for):
    write_plate(tmp_path / "plate", PIXELS, 16, 24, 2, zarr_format, stored=5)
    looked_for.clear()
    with pytest.raises(ValueError, match="an HCS plate of 384 wells, at most 2 images each") as caught:
        open_source(tmp_path / "plate")
    expected = [f"{tmp_path}/plate/A/{column}/{field}" for column in (1, 2, 3) for field in (0, 1)]
    assert str(caught.value).split("\n  ")[1:] == [*expected, "..."]
    # The plate, four wells and seven images.
    assert len(set(looked_for)) == 12
    assert open_source(expected[-1]).shape == (4, 5)


def test_B15_a_plate_whose_wells_are_not_there_ends_the_search(tmp_path, looked_for):
    write_plate(tmp_path / "plate", PIXELS, 16, 24, stored=0)
    looked_for.clear()
    found = found_in(tmp_path / "plate")
    assert (found.found, found.is_complete) == ((), False)
    assert len(set(looked_for)) == MAX_OPENED + 1
    with pytest.raises(ValueError, match="an HCS plate of 384 wells.*, in which no image was found"):
        open_source(tmp_path / "plate")


def test_wells_that_are_not_there_are_left_out(tmp_path):
    write_plate(tmp_path / "plate", PIXELS, 2, 2, stored=3)
    found = found_in(tmp_path / "plate")
    assert [path for path, _ in found.found] == ["A/1/0", "A/2/0", "B/1/0"]
    assert found.is_complete


def test_all_images_are_found_where_all_are_asked_for(tmp_path):
    write_plate(tmp_path / "plate", PIXELS, 8, 8, stored=None)
    found = found_in(tmp_path / "plate", most=None)
    rows = [f"{row}/{column}/0" for row in "ABCDEFGH" for column in range(1, 9)]
    assert ([path for path, _ in found.found], found.is_complete) == (rows, True)


@pytest.mark.parametrize("most", [1, 3, 4, 5])
def test_a_list_is_complete_only_if_nothing_is_left_out(tmp_path, most):
    write_plate(tmp_path / "plate", PIXELS, 2, 2)
    found = found_in(tmp_path / "plate", most=most)
    assert (len(found.found), found.is_complete) == (min(most, 4), most >= 4)


@pytest.mark.parametrize("plate", [None, [], {"wells": None}, {"wells": [{}]}, {"wells": [{"path": "nowhere"}]}])
def test_broken_metadata_of_a_plate_do_not_hide_what_is_there(tmp_path, plate):
    write_plate(tmp_path / "plate", PIXELS, 1, 2)
    zarr.open_group(tmp_path / "plate", mode="a").attrs["ome"] = {"version": "0.5", "plate": plate}
    assert [path for path, _ in found_in(tmp_path / "plate").found] == ["A/1/0", "A/2/0"]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("series", [None, ["first", "second"], ["second", "gone", "first"]])
def test_B15_a_bioformats2raw_collection_is_listed_in_the_order_of_its_series(tmp_path, zarr_format, series):
    names = ["0", "1"] if series is None else ["first", "second"]
    write_bioformats2raw(tmp_path / "many", dict.fromkeys(names, PIXELS), zarr_format, series)
    found = found_in(tmp_path / "many")
    assert found.kind == "a bioformats2raw collection of images"
    expected = names if series is None else [name for name in series if name != "gone"]
    assert [path for path, _ in found.found] == expected


def test_images_are_in_the_order_of_their_numbers(tmp_path):
    names = [str(number) for number in range(12)]
    write_bioformats2raw(tmp_path / "many", dict.fromkeys(names, PIXELS))
    assert [path for path, _ in found_in(tmp_path / "many", most=None).found] == names
    zarr.open_group(tmp_path / "many", mode="a").attrs["ome"] = {}
    assert [path for path, _ in found_in(tmp_path / "many", most=None).found] == names


def test_a_group_of_many_groups_is_not_searched_for_ever(tmp_path, looked_for):
    group = zarr.open_group(tmp_path / "group", mode="w")
    for outer in range(9):
        inside = group.create_group(str(outer))
        for inner in range(9):
            inside.create_group(str(inner))
    looked_for.clear()
    found = found_in(tmp_path / "group")
    assert (found.found, found.is_complete) == ((), False)
    assert len(set(looked_for)) == MAX_OPENED + 1


def test_what_is_no_zarr_is_passed_over(tmp_path):
    group = zarr.open_group(tmp_path / "group", mode="w")
    group.create_array("good", shape=(3,), dtype="uint8")
    for name, text in {"broken": "{", "odd": "[]", "later": '{"zarr_format": 9}'}.items():
        (tmp_path / "group" / name).mkdir()
        (tmp_path / "group" / name / "zarr.json").write_text(text)
    (tmp_path / "group" / "notes").mkdir()
    found = found_in(tmp_path / "group")
    assert found.found == (("good", "uint8, shape (3,)"),)
    assert found.is_complete
