"""A disk that is full at any moment: an error that says where and how much, and a run that goes on (F7)."""

import contextlib
import ctypes
import errno
import os
import re
import resource
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from naive import partition_fault
from outcomes import blobs, consolidate, snapshot, write_image
from scipy import ndimage

from blockbuster import tile_process
from blockbuster.report import REPORT
from blockbuster.rundir import failpoints

pytestmark = pytest.mark.slow

SHAPE, TILE = (256, 256), (64, 64)
N_TILES, TILES_PER_TASK, N_WORKERS = 16, 2, 2
DISK_BYTES = 2**24
NEW_NAMESPACE, NEW_USERS = 0x20000, 0x10000000
PRIVATE, REMOUNT = 1 << 14 | 1 << 18, 32


@dataclass
class Failed:
    """How a run ended that found the disk full, and what could be seen then."""

    number: int
    message: str
    seen: dict
    n_calls: int
    resumed: dict


def call_libc(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount_disk(path, flags=0, n_bytes=DISK_BYTES):
    call_libc("mount", b"tmpfs", os.fsencode(path), b"tmpfs", flags, f"size={n_bytes}".encode())


def unshare_mounts():
    """Mount for this process alone; who is not root becomes root of a space of its own."""
    try:
        call_libc("unshare", NEW_NAMESPACE)
    except OSError:
        user, group = os.getuid(), os.getgid()
        call_libc("unshare", NEW_NAMESPACE | NEW_USERS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    call_libc("mount", b"none", b"/", None, PRIVATE, None)


def try_mount(path):
    unshare_mounts()
    mount_disk(path)


@pytest.fixture(scope="module")
def mounts(zygote, tmp_path_factory):
    outcome = zygote.run(try_mount, tmp_path_factory.mktemp("mount"))
    if outcome.error:
        pytest.skip(f"a small disk cannot be mounted here: {outcome.message}")


@pytest.fixture
def folder(tmp_path):
    write_image(tmp_path / "image.zarr", blobs(SHAPE, density=0.5), chunks=(16, 16))
    for name in ("disk", "elsewhere", "calls"):
        (tmp_path / name).mkdir()
    return tmp_path


def segment(folder, places, **options):
    """Label the image; `places` says what lies on the small disk."""

    def find(tile):
        n = len(os.listdir(calls))
        while True:
            try:
                os.close(os.open(f"{calls}/{n}", os.O_CREAT | os.O_EXCL))
                return ndimage.label(tile)[0]
            except FileExistsError:
                n += 1

    calls = str(folder / "calls")
    where = {"output": folder / "elsewhere", "stage": folder / "elsewhere"} | dict.fromkeys(
        places, folder / "disk"
    )
    with dask.config.set(scheduler="threads", num_workers=N_WORKERS):
        tile_process(
            str(folder / "image.zarr"),
            find,
            tile_shape=TILE,
            tiles_per_task=TILES_PER_TASK,
            write_to=str(where["output"] / "out.zarr"),
            stage_dir=str(where["stage"]) if len(places) == 1 else None,
            fn_version="1",
            **options,
        )


@contextlib.contextmanager
def at_point(point, action):
    """Do something when a point of the run is reached, where other tests kill it."""
    name, nth = point.split(":")
    passed = Counter()

    def act(_, reached):
        passed[reached] += 1
        if reached == name and passed[name] == int(nth):
            action()

    os.environ[failpoints.VARIABLE] = "act:"
    failpoints._act = act
    yield
    del os.environ[failpoints.VARIABLE]


def fill(folder):
    """Take all that is free of a disk."""
    with open(folder / "ballast", "xb") as file:
        while True:
            free = os.statvfs(folder)
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free.f_bfree * free.f_frsize)
            if not os.statvfs(folder).f_bfree:
                return


def tree(folder):
    """What lies on the small disk and elsewhere, but for the ballast and the times in the report."""
    files = {**snapshot(folder)}
    kept = {path: what for path, what in files.items() if path.split("/")[0] in ("disk", "elsewhere")}
    return {path: "" if path.endswith(REPORT) else what for path, what in kept.items() if path != "disk/ballast"}


def fail_and_resume(folder, places, point, bigger=False):
    """Run until the disk is full, make room, and go on."""
    unshare_mounts()
    mount_disk(folder / "disk")
    with at_point(point, lambda: fill(folder / "disk")):
        number, message = fault(folder, places)
    seen, n_calls = tree(folder), len(os.listdir(folder / "calls"))
    if bigger:
        mount_disk(folder / "disk", REMOUNT, 2 * DISK_BYTES)
    else:
        os.unlink(folder / "disk/ballast")
    segment(folder, places, resume=True)
    return Failed(number, message, seen, n_calls, tree(folder))


def fault(folder, places, **options):
    """Give number and message of the error in which a run ends."""
    try:
        with warnings.catch_warnings():
            # The disk being full is no news.
            warnings.filterwarnings("ignore", ".*may not fit")
            segment(folder, places, **options)
    except OSError as error:
        return error.errno, "\n".join([str(error), *getattr(error, "__notes__", ())])
    return 0, ""


def run_plainly(folder, places):
    segment(folder, places)
    return tree(folder)


@pytest.fixture(scope="module")
def clean(zygote, tmp_path_factory):
    """What a run leaves that finds room, below the folder that holds the output."""
    folder = tmp_path_factory.mktemp("clean")
    write_image(folder / "image.zarr", blobs(SHAPE, density=0.5), chunks=(16, 16))
    for name in ("disk", "elsewhere", "calls"):
        (folder / name).mkdir()
    after = zygote.run(run_plainly, folder, ["output", "stage"]).result()
    image = zarr.open_array(folder / "image.zarr", mode="r")[...]
    labels = zarr.open_array(folder / "disk/out.zarr/labels", mode="r")[...]
    assert partition_fault(labels, ndimage.label(image)[0]) == ""
    return {path.removeprefix("disk/"): what for path, what in after.items() if path.startswith("disk/")}


def check(failed, folder, places, clean):
    """See that the error is clear, nothing half visible, and the end that of a run that found room."""
    assert failed.number in (errno.ENOSPC, errno.EFBIG), failed.message
    assert re.search(
        rf"there is no room for {re.escape(str(folder))}/\S+: [\d,]+ bytes are needed", failed.message
    )
    assert re.search(r" [\d,]+ are free ", failed.message)
    where = "disk" if "output" in places else "elsewhere"
    assert not [path for path in failed.seen if path.startswith(f"{where}/out.zarr/")]
    others = {path for path in failed.seen if "blockbuster" not in path}
    assert others <= {"disk", "elsewhere"}
    expected = {f"{where}/{path}": what for path, what in clean.items()}
    assert failed.resumed == expected | {"disk": "folder", "elsewhere": "folder"} or failed.resumed == expected
    n_calls = len(os.listdir(folder / "calls"))
    assert N_TILES <= n_calls <= N_TILES + N_WORKERS * TILES_PER_TASK


EVERYTHING = (
    "locked:1",
    "stage made:1",
    "stage laid out:1",
    "task journalled:3",
    "stage finished:1",
    "seams matched:1",
    "partial made:1",
    "box journalled:1",
    "output complete:1",
)


@pytest.mark.parametrize("point", EVERYTHING)
def test_F7_a_disk_that_is_full_is_an_error_and_the_run_goes_on_after_there_is_room(
    zygote, mounts, folder, clean, point
):
    places = ["output", "stage"]
    check(zygote.run(fail_and_resume, folder, places, point).result(), folder, places, clean)


@pytest.mark.parametrize(
    ("places", "point"),
    [
        (["stage"], "stage laid out:1"),
        (["stage"], "task journalled:3"),
        (["stage"], "stage finished:1"),
        (["output"], "locked:1"),
        (["output"], "partial made:1"),
        (["output"], "box journalled:1"),
    ],
)
def test_F7_stage_and_output_may_lie_on_different_disks_of_which_one_is_full(
    zygote, mounts, folder, clean, places, point
):
    check(zygote.run(fail_and_resume, folder, places, point).result(), folder, places, clean)


def test_F7_a_run_goes_on_after_its_disk_was_made_larger(zygote, mounts, folder, clean):
    places = ["output", "stage"]
    check(
        zygote.run(fail_and_resume, folder, places, "task journalled:2", bigger=True).result(),
        folder,
        places,
        clean,
    )


def fill_first(folder):
    """Run on a disk that is full before anything is written."""
    unshare_mounts()
    mount_disk(folder / "disk")
    fill(folder / "disk")
    number, message = fault(folder, ["output", "stage"])
    seen = tree(folder)
    os.unlink(folder / "disk/ballast")
    segment(folder, ["output", "stage"])
    return Failed(number, message, seen, 0, tree(folder))


def test_F7_a_disk_without_room_for_a_lock_is_an_error_before_fn_runs(zygote, mounts, folder, clean):
    failed = zygote.run(fill_first, folder).result()
    assert failed.seen == {"disk": "folder", "elsewhere": "folder"}
    check(failed, folder, ["output", "stage"], clean)
    assert len(os.listdir(folder / "calls")) == N_TILES


def replace_labels(folder, point):
    """Replace labels of a group with consolidated metadata; say what it holds before, at the fault, and after."""
    unshare_mounts()
    mount_disk(folder / "disk")
    group = zarr.create_group(folder / "disk/out.zarr")
    group.create_array("labels", data=np.full((4, 4), 7, "int16"))
    group.create_array("raw", data=np.arange(8))
    consolidate(folder / "disk/out.zarr")
    before = snapshot(folder / "disk/out.zarr")
    with at_point(point, lambda: fill(folder / "disk")):
        number, message = fault(folder, ["output", "stage"], overwrite=True)
    seen = snapshot(folder / "disk/out.zarr")
    os.unlink(folder / "disk/ballast")
    segment(folder, ["output", "stage"], overwrite=True, resume=True)
    listed = dict(zarr.open_consolidated(folder / "disk/out.zarr").arrays())
    shapes = {name: array.shape for name, array in listed.items()}
    return before, Failed(number, message, seen, 0, tree(folder)), shapes


@pytest.mark.parametrize("point", ["seams matched:1", "box journalled:1", "output in place:1"])
def test_F7_old_labels_are_whole_until_the_new_ones_are_in_their_place(zygote, mounts, folder, clean, point):
    before, failed, shapes = zygote.run(replace_labels, folder, point).result()
    assert failed.number == errno.ENOSPC
    assert f"there is no room for {folder}/disk/out.zarr" in failed.message
    new = {
        path.removeprefix("out.zarr/"): what
        for path, what in clean.items()
        if path.startswith("out.zarr/labels/")
    }
    if point == "output in place:1":
        # What lists the arrays could not be written any more.
        found = {path: what for path, what in failed.seen.items() if path.startswith("labels/")}
        assert {path: "" if path.endswith(REPORT) else what for path, what in found.items()} == new
    else:
        assert failed.seen == before
    foreign = {path: what for path, what in before.items() if path.startswith("raw")}
    resumed = {path.removeprefix("disk/out.zarr/"): what for path, what in failed.resumed.items()}
    assert {path: resumed.get(path) for path in foreign | new} == foreign | new
    assert not [path for path in resumed if "blockbuster" in path and not path.endswith(REPORT)]
    assert shapes == {"labels": SHAPE, "raw": (8,)}


def limit_and_resume(folder, point, path):
    """Run until no file may be longer than one is, which any user can ask of the system; lift that, and go on."""
    longest = []

    def limit():
        longest.append(os.path.getsize(folder / path) if path else 2048)
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest[0], resource.RLIM_INFINITY))

    with at_point(point, limit):
        number, message = fault(folder, ["output", "stage"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    seen = tree(folder)
    segment(folder, ["output", "stage"], resume=True)
    return Failed(number, message, seen, 0, tree(folder))


@pytest.mark.parametrize("point", ["stage laid out:1", "task journalled:3", "stage finished:1", "partial made:1"])
def test_F7_a_file_that_may_not_become_longer_is_an_error_and_the_run_goes_on(zygote, folder, clean, point):
    check(zygote.run(limit_and_resume, folder, point, "").result(), folder, ["output", "stage"], clean)


def test_F7_a_journal_that_cannot_be_appended_is_an_error_and_the_run_goes_on(zygote, folder, clean):
    journal = "disk/out.zarr.labels.blockbuster-stage/journal.jsonl"
    failed = zygote.run(limit_and_resume, folder, "task finished:6", journal).result()
    assert f"there is no room for {folder}/{journal}: " in failed.message
    assert failed.number == errno.EFBIG
    check(failed, folder, ["output", "stage"], clean)
