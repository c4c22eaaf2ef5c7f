import pytest

from blockbuster.stage.footprint import BASE_BYTES, peak_bytes

BRICK = {"region_voxels": 1_300_003, "core_voxels": 1_000_003, "box_voxels": 1_200_007, "itemsize": 2}


def test_bound_grows_with_everything_that_a_run_holds():
    least = peak_bytes(**BRICK, n_at_once=2)
    for more in (
        {"region_voxels": 9_000_011},
        {"core_voxels": 9_000_011, "region_voxels": 9_100_037},
        {"box_voxels": 9_000_011},
        {"itemsize": 8},
        {"apart_voxels": 1_000_003},
        {"n_at_once": 3},
        {"n_tasks": 1009},
        {"n_tiles": 100_003},
        {"sampled_voxels": 16_777_259},
        {"held_bytes": 7},
    ):
        assert peak_bytes(**{**BRICK, "n_at_once": 2, **more}) > least


def test_result_and_image_in_memory_count_once():
    assert peak_bytes(**BRICK, n_at_once=5, held_bytes=1_000_003) == peak_bytes(**BRICK, n_at_once=5) + 1_000_003


def test_process_without_tasks_of_its_own_takes_the_interpreter_and_the_graph():
    assert peak_bytes(**BRICK, n_at_once=0) == BASE_BYTES
    assert BASE_BYTES < peak_bytes(**BRICK, n_at_once=0, n_tasks=1000) < BASE_BYTES + 10_000_000


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_one_task_needs_its_pixels_and_labels_and_a_worker_more_not_twice_as_much(itemsize):
    brick = {**BRICK, "itemsize": itemsize}
    one, two = (peak_bytes(**brick, n_at_once=n) - BASE_BYTES for n in (1, 2))
    assert one > itemsize * brick["region_voxels"] + 8 * brick["core_voxels"]
    assert one < two < 2 * one


def test_bound_is_a_plain_integer():
    assert type(peak_bytes(**BRICK, n_at_once=2)) is int
