"""A run whose process is killed at any moment: the next call finishes it, and repeats only what was under way."""

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from fatal import wait_until
from naive import partition_fault
from outcomes import snapshot, write_image
from scipy import ndimage
from zygote import Zygote, processes_of_session

from blockbuster import relabel_sequential_zarr, tile_process
from blockbuster.report import REPORT

pytestmark = pytest.mark.slow

SHAPE, TILE, HALO = (6, 512, 512), (1, 256, 256), (0, 4, 4)
GRID = (6, 2, 2)
TILES_PER_BRICK = (1, 2, 1)
N_WORKERS = 2
# Tiles of the tasks that a kill may interrupt.
IN_FLIGHT = N_WORKERS * int(np.prod(TILES_PER_BRICK))
OURS = ("labels.blockbuster-stage", "labels.blockbuster-partial", "labels.blockbuster-lock", "blockbuster-lock")
FAIL_POINT = "BLOCKBUSTER_FAIL_POINT"


@dataclass(frozen=True)
class CountedOnDisk:
    """Connected components; each call leaves a file of its own, named after the tile."""

    folder: str
    seconds: float = 0.008

    def __call__(self, tile):
        name = hashlib.sha256(tile.tobytes()).hexdigest()[:16]
        n_before = 0
        while True:
            try:
                os.close(os.open(f"{self.folder}/{name}-{n_before}", os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                n_before += 1
        time.sleep(self.seconds)
        return ndimage.label(tile > 0)[0]


def segment(image, calls, scheduler="threads", seconds=0.008, **options):
    """The run that is killed; gives labels only where they are in memory."""
    with dask.config.set(scheduler=scheduler, num_workers=N_WORKERS):
        labels = tile_process(
            str(image),
            CountedOnDisk(str(calls), seconds),
            tile_shape=TILE,
            overlap=HALO,
            skip_empty=True,
            empty_threshold=0,
            **options,
        )
    return labels if isinstance(labels, np.ndarray) else None


def pixels():
    """Objects across all seams, with three empty tiles: a whole task and half of another one."""
    noise = np.random.default_rng(5).random(SHAPE)
    image = (ndimage.gaussian_filter(noise, 1.2) > 0.5).astype("uint8") * 9
    image[2, :, :264] = 0
    image[4, :264, :264] = 0
    return image


def regions():
    """Index and pixels' place, halo included, of each tile."""
    for index in np.ndindex(*GRID):
        bounds = zip(index, TILE, HALO, SHAPE, strict=True)
        yield index, tuple(slice(max(0, i * n - h), min(length, (i + 1) * n + h)) for i, n, h, length in bounds)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An image in the style of a store, its path, and the tasks of its tiles by what fn's files are called."""
    data = pixels()
    path = tmp_path_factory.mktemp("image") / "image.zarr"
    write_image(path, data, chunks=(1, 64, 64))
    tasks = {}
    for index, region in regions():
        if data[region].any():
            name = hashlib.sha256(data[region].tobytes()).hexdigest()[:16]
            tasks[name] = tuple(i // n for i, n in zip(index, TILES_PER_BRICK, strict=True))
    # All distinct, and three are empty.
    assert len(tasks) == 21
    return Image(path, data, tasks)


@dataclass(frozen=True)
class Image:
    path: Path
    data: np.ndarray
    tasks: dict


@dataclass
class Scenario:
    """A run in a folder with files of others."""

    zygote: Zygote
    image: Image
    root: Path
    swaps: bool = False
    seconds: float = 0.0

    def folder(self, name):
        """Make the folder of one run."""
        folder = self.root / name
        (folder / "work/out.zarr.other.blockbuster-stage").mkdir(parents=True)
        (folder / "calls").mkdir()
        (folder / "work/notes.txt").write_text("mine")
        (folder / "work/out.zarr.labels.blockbuster-stage.txt").write_text("mine")
        if self.swaps:
            group = zarr.create_group(folder / "work/out.zarr")
            group.create_array("labels", data=np.full((4, 4), 7, "int16"))
            group.create_array("raw", data=np.arange(8))
            (folder / "work/out.zarr/.DS_Store").write_text("mine")
        return folder

    def call(self, folder, **keywords):
        """Give arguments for the zygote."""
        options = {"write_to": str(folder / "work/out.zarr"), "overwrite": self.swaps, **keywords}
        return (segment, self.image.path, folder / "calls"), options

    def start(self, folder, **keywords):
        arguments, options = self.call(folder, **keywords)
        return self.zygote.start(*arguments, **options)

    def run(self, folder, **keywords):
        return self.start(folder, **keywords).wait()

    def list_points(self, folder):
        """Run to the end, and take the time; name the points that were passed, in order."""
        listed = folder / "points"
        start = time.monotonic()
        self.run(folder, environment={FAIL_POINT: f"list:{listed}"}).result()
        self.seconds = time.monotonic() - start
        return listed.read_text().splitlines()

    def killed_at(self, folder, point, **keywords):
        assert self.run(folder, environment={FAIL_POINT: point}, **keywords).killed, point


def tree(folder):
    """All files, and what they hold but for the report, which tells times."""
    return {path: "" if path.endswith(REPORT) else what for path, what in snapshot(folder).items()}


def below(files, prefix):
    """The part of a tree below a folder."""
    return {path[len(prefix) + 1 :]: what for path, what in files.items() if path.startswith(f"{prefix}/")}


def check_killed(folder, before, clean):
    """See that files of others are untouched, and that old or new labels are there as a whole."""
    after = tree(folder / "work")
    ours = tuple(f"out.zarr.{name}" for name in OURS)
    is_foreign = {
        path for path in before if not path.startswith("out.zarr/labels") and path not in ("out.zarr/zarr.json",)
    }
    assert {path: after.get(path) for path in is_foreign} == {path: before[path] for path in is_foreign}
    for path in set(after) - set(before) - set(clean):
        assert path.startswith(ours), path
    old, new, found = (below(files, "out.zarr/labels") for files in (before, clean, after))
    aside = below(after, "out.zarr.labels.blockbuster-partial/replaced")
    assert found in (old, new) or (not found and aside == old)


def check_calls(folder, image, n_kills):
    """See that fn ran for each tile, and again only for tiles of tasks that were under way."""
    calls = Counter(path.name.partition("-")[0] for path in (folder / "calls").iterdir())
    assert set(calls) == set(image.tasks)
    repeated = Counter(image.tasks[name] for name, n in calls.items() for _ in range(n - 1))
    assert len(repeated) <= n_kills * N_WORKERS, repeated
    assert calls.total() <= len(image.tasks) + n_kills * IN_FLIGHT
    assert max(calls.values()) <= 1 + n_kills


def chosen_points(points):
    """First, middle and last occurrence of each name."""
    return [f"{name}:{nth}" for name, n in Counter(points).items() for nth in sorted({1, (n + 1) // 2, n})]


def fractions(n, seed):
    """Moments spread over a run: each at random within its share, in random order."""
    random = np.random.default_rng(seed)
    return random.permutation((np.arange(n) + random.random(n)) / n)


@pytest.mark.parametrize("swaps", [False, True], ids=["new store", "old labels replaced"])
def test_F5_a_run_killed_at_any_point_is_finished_by_the_next_call(zygote, image, tmp_path, swaps):
    scenario = Scenario(zygote, image, tmp_path, swaps)
    folder = scenario.folder("clean")
    before = tree(folder / "work")
    points = scenario.list_points(folder)
    clean = tree(folder / "work")
    check_calls(folder, image, 0)
    labels = zarr.open_array(folder / "work/out.zarr/labels", mode="r")[...]
    assert partition_fault(labels, ndimage.label(image.data > 0)[0]) == ""
    assert (Counter(points)["task journalled"], Counter(points)["box journalled"]) == (12, 6)
    assert ("old output aside" in points) == swaps

    def resume(folder):
        check_killed(folder, before, clean)
        scenario.run(folder, resume=True).result()
        assert tree(folder / "work") == clean
        check_calls(folder, image, 1)

    # Until the labels are written, a run that replaces others does what one to a new place does.
    chosen = chosen_points(points[points.index("seams matched") :] if swaps else points)
    for point in chosen:
        folder = scenario.folder(point)
        scenario.killed_at(folder, point)
        resume(folder)
    seconds = scenario.seconds
    n_killed, n_wanted = 0, 8 if swaps else max(8, 44 - len(chosen))
    for nth, fraction in enumerate(fractions(3 * n_wanted, seed=swaps)):
        folder = scenario.folder(f"random {nth}")
        child = scenario.start(folder)
        time.sleep(fraction * seconds)
        child.kill()
        killed = child.wait().killed
        n_killed += killed
        # A kill that comes after the end is none: the machine was busier when the time was taken.
        seconds *= 1 if killed else 0.8
        resume(folder)
        if n_killed == n_wanted:
            break
    assert n_killed == n_wanted
    assert swaps or len(chosen) + n_killed >= 40


TWICE = [
    ("stage made:1", "stage laid out:1"),
    ("task journalled:4", "task journalled:3"),
    ("stage finished:1", "box journalled:2"),
    ("box journalled:3", "box journalled:2"),
    ("output complete:1", "output flushed:1"),
    ("old output aside:1", "output in place:1"),
]


def test_F5_a_run_that_is_killed_again_while_it_continues_is_finished_by_a_third_call(zygote, image, tmp_path):
    scenario = Scenario(zygote, image, tmp_path, swaps=True)
    folder = scenario.folder("clean")
    before = tree(folder / "work")
    scenario.run(folder).result()
    clean = tree(folder / "work")
    for first, second in TWICE:
        folder = scenario.folder(first)
        scenario.killed_at(folder, first)
        scenario.killed_at(folder, second, resume=True)
        check_killed(folder, before, clean)
        scenario.run(folder, resume=True).result()
        assert tree(folder / "work") == clean
        check_calls(folder, image, 2)


def test_F5_a_run_that_is_killed_every_moment_comes_to_its_end(zygote, image, tmp_path):
    scenario = Scenario(zygote, image, tmp_path)
    folder = scenario.folder("clean")
    before = tree(folder / "work")
    scenario.run(folder).result()
    clean = tree(folder / "work")
    folder = scenario.folder("killed")
    n_kills = 0
    for nth in (2, 1, 3, 2, 1, 2, 1):
        n_kills += scenario.run(folder, environment={FAIL_POINT: f"task journalled:{nth}"}, resume=True).killed
        check_killed(folder, before, clean)
    for nth in (1, 2, 1, 1):
        n_kills += scenario.run(folder, environment={FAIL_POINT: f"box journalled:{nth}"}, resume=True).killed
        check_killed(folder, before, clean)
    # Each kept what it finished: 12 tasks and 5 of 6 boxes.
    assert n_kills == 11
    scenario.run(folder, resume=True).result()
    assert tree(folder / "work") == clean
    check_calls(folder, image, n_kills)


def identity(path):
    """What a file written anew has not: an inode alone may be used again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_F5_labels_that_were_written_before_the_kill_are_not_written_again(zygote, image, tmp_path):
    scenario = Scenario(zygote, image, tmp_path)
    folder = scenario.folder("killed")
    scenario.killed_at(folder, "box journalled:4")
    (partial,) = folder.glob("work/out.zarr.labels.blockbuster-partial/store-*/labels/c")
    written = {path.relative_to(partial): identity(path) for path in partial.rglob("*") if path.is_file()}
    # The other worker may have written one that nobody heard of.
    assert 4 <= len(written) < 4 + N_WORKERS
    listed = folder / "points"
    scenario.run(folder, resume=True, environment={FAIL_POINT: f"list:{listed}"}).result()
    points = Counter(listed.read_text().splitlines())
    assert (points["task finished"], points["box written"]) == (0, 2)
    final = folder / "work/out.zarr/labels/c"
    assert sum(identity(final / path) == before for path, before in written.items()) == 4


def test_F5_an_array_in_memory_is_the_same_after_a_kill(zygote, image, tmp_path):
    scenario = Scenario(zygote, image, tmp_path)

    def run(folder, **keywords):
        stages = str(folder / "stages")
        return scenario.run(folder, write_to=None, overwrite=False, stage_dir=stages, **keywords)

    folder = scenario.folder("clean")
    listed = folder / "points"
    expected = run(folder, environment={FAIL_POINT: f"list:{listed}"}).result()
    assert partition_fault(expected, ndimage.label(image.data > 0)[0]) == ""
    assert not (folder / "stages").exists()
    for point in ("stage laid out:1", "task journalled:7", "seams matched:1", "box written:3", "stage removed:1"):
        assert point.partition(":")[0] in listed.read_text().splitlines()
        folder = scenario.folder(point)
        assert run(folder, environment={FAIL_POINT: point}).killed
        labels = run(folder, resume=True).result()
        assert (labels.dtype, labels.tobytes()) == (expected.dtype, expected.tobytes())
        # The first run made the folder, and could not remove it.
        assert not (folder / "stages").exists() or not list((folder / "stages").iterdir())
        # After the end nothing says that there was a run.
        if point != "stage removed:1":
            check_calls(folder, image, 1)


@pytest.mark.parametrize("point", ["task journalled:3", "box journalled:2"])
def test_F5_worker_processes_end_soon_after_a_driver_that_is_killed(zygote, image, tmp_path, point):
    scenario = Scenario(zygote, image, tmp_path)
    folder = scenario.folder("clean")
    scenario.run(folder).result()
    clean = tree(folder / "work")
    folder = scenario.folder("killed")
    child = scenario.start(folder, scheduler="processes", environment={FAIL_POINT: point})
    assert child.wait().killed
    try:
        wait_until(lambda: not processes_of_session(child.pid))
    finally:
        for process in processes_of_session(child.pid):
            process.kill()
    scenario.run(folder, scheduler="processes", resume=True).result()
    assert tree(folder / "work") == clean
    check_calls(folder, image, 1)


def relabel(path):
    return relabel_sequential_zarr(path, "labels")


def test_F5_labels_whose_renumbering_was_killed_are_old_or_new_and_the_next_call_finishes(zygote, tmp_path):
    def store(name):
        path = tmp_path / name / "x.zarr"
        labels = zarr.create_group(path).create_array("labels", shape=(64, 64), chunks=(16, 16), dtype="int32")
        labels[...] = np.arange(4096).reshape(64, 64) * 3
        (path / "notes.txt").write_text("mine")
        return path

    path = store("clean")
    before = snapshot(path.parent)
    listed = tmp_path / "points"
    assert zygote.run(relabel, path, environment={FAIL_POINT: f"list:{listed}"}).result() == 4095
    clean = snapshot(path.parent)
    points = listed.read_text().splitlines()
    assert {"partial made", "output flushed", "old output aside", "output in place"} <= set(points)
    for point in points:
        path = store(point)
        assert zygote.run(relabel, path, environment={FAIL_POINT: f"{point}:1"}).killed
        after = snapshot(path.parent)
        old, new, found = (below(files, "x.zarr/labels") for files in (before, clean, after))
        assert found in (old, new) or below(after, "x.zarr.labels.blockbuster-partial/replaced") == old
        assert zygote.run(relabel, path).result() == 4095
        assert snapshot(path.parent) == clean
