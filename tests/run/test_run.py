"""A run under way: where it may be opened (F27), its two phases, and what it leaves behind."""

import multiprocessing
import os

import naive
import numpy as np
import pytest
from interrupted import EXPECTED, IMAGE, Labeller, segment
from outcomes import assert_same_objects, refused

from blockbuster import tile_process
from blockbuster.run.options import RunOptions
from blockbuster.run.plan import make_plan
from blockbuster.run.run import open_run


def test_F27_a_call_from_a_worker_that_imports_the_main_script_is_refused(monkeypatch, tmp_path):
    fn = Labeller(tmp_path / "labeller")
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with refused(RuntimeError, 'if __name__ == "__main__":', folder=tmp_path):
        segment(fn, write_to=tmp_path / "out.zarr")
    assert fn.calls == {}


def test_F27_a_worker_that_imports_the_main_script_plans_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with refused(RuntimeError, 'if __name__ == "__main__":'):
        tile_process(IMAGE, naive.label, tile_shape=lambda shape, dtype: asked.append(shape) or shape)
    assert asked == []


def opened(fn=naive.label, **options):
    return open_run(
        make_plan(IMAGE, fn, RunOptions(tile_shape=(10, 11), overlap=1, fn_version="1", **options)), fn
    )


def test_a_run_is_staged_and_merged_and_then_has_a_result():
    with opened() as run:
        run.stage()
        assert run.job.staged.bricks.grid.shape == IMAGE.shape
        run.merge()
        assert_same_objects(run.result(), EXPECTED)
    assert not os.path.exists(run.claim.directory)


def test_a_finished_run_has_its_result_at_once(folder):
    for is_finished in (False, True):
        with opened(write_to="out.zarr", resume=True, compute=True) as run:
            assert run.is_finished is is_finished
            if not is_finished:
                run.stage()
                run.merge()
            np.testing.assert_array_equal(run.result(), EXPECTED)


def test_a_run_that_is_left_between_its_phases_goes_on_from_its_stage(folder):
    def leave_after_the_stage():
        with opened(write_to="out.zarr") as run:
            run.stage()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_after_the_stage()
    with opened(write_to="out.zarr", resume=True, return_report=True) as run:
        run.stage()
        run.merge()
        labels, report = run.result()
    np.testing.assert_array_equal(labels, EXPECTED)
    assert report.resumed_from == "seams"
    assert os.listdir() == ["out.zarr"]
