"""What --fn may name, and which words are never taken for a module."""

import sys

import numpy as np
import pytest
from commands import read, run, run_module

import blockbuster
from blockbuster.cli.fn_argument import DIAMETER, FnName, fn_forms, read_fn_name

FIND = "from scipy import ndimage\n\n\ndef find(tile):\n    return ndimage.label(tile > 110)[0]\n"


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("otsu", "otsu", ""),
        ("threshold:-1e3", "threshold", "-1e3"),
        ("watershed", "watershed", ""),
        ("watershed:7.5", "watershed", "7.5"),
        ("module:function", "module", "function"),
        ("package.module:Class.method", "package.module", "Class.method"),
        ("otsu.better:find", "otsu.better", "find"),
    ],
)
def test_names_are_read_and_written_alike(text, kind, value):
    assert read_fn_name(text) == FnName(kind, value)
    assert str(read_fn_name(text)) == text


def test_values_are_numbers():
    assert read_fn_name("threshold:-1e3").number == -1000
    assert read_fn_name("watershed:7.5").number == 7.5
    assert read_fn_name("watershed").number == DIAMETER


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("otsu:find", "'otsu:find' is not otsu, threshold:VALUE"),
        ("otsu:", "'otsu:' is not otsu"),
        ("threshold", "threshold: needs a number, e.g. threshold:120."),
        ("watershed:", "watershed: needs the diameter of a blob in voxels, 1 or more, e.g. watershed:20."),
        ("watershed:0.5", "watershed:0.5 needs the diameter of a blob in voxels, 1 or more"),
        ("watershed:nan", "watershed:nan needs the diameter"),
        ("cellpose", "'cellpose' is not otsu"),
        ("stardist:", "'stardist:' is not otsu"),
        ("module:", "'module:' is not otsu"),
    ],
)
def test_words_of_our_own_are_never_taken_for_a_module(here, capsys, name, message):
    for word in ("otsu", "threshold", "watershed", "cellpose", "stardist"):
        (here / f"{word}.py").write_text(FIND)
    with pytest.raises(SystemExit) as stopped:
        run(f"segment image.zarr --fn {name} --write-to out.zarr")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A folder of plugins that takes the place of blockbuster's own, and says what it is called with."""
    folder = tmp_path / "more" / "plugins"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "cellpose.py").write_text(
        "from functools import partial\n"
        "from scipy import ndimage\n"
        "def find(tile, model, gpu):\n    return ndimage.label(tile > int(model))[0] * (2 if gpu else 1)\n"
        "def cellpose_fn(model, *, gpu=False, diameter=None, **eval_kwargs):\n"
        "    return partial(find, model=model, gpu=gpu)\n"
    )
    (folder / "stardist.py").write_text(
        "from scipy import ndimage\n"
        "def stardist_fn(model, *, normalize=(1, 99.8), **predict_kwargs):\n"
        "    return lambda tile: ndimage.label(tile > int(model.rpartition('/')[2]))[0]\n"
    )
    monkeypatch.setattr(blockbuster, "__path__", [str(folder.parent), *blockbuster.__path__])
    before = {name for name in sys.modules if name.startswith("blockbuster.plugins")}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.startswith("blockbuster.plugins")]:
        del sys.modules[name]
    blockbuster.__dict__.pop("plugins", None)


def test_models_are_given_to_the_plugins(image, plugins):
    assert "cellpose:MODEL, stardist:MODEL or module:function" in fn_forms()
    assert run("segment image.zarr --fn cellpose:110 --merge none --write-to o1") == 0
    assert run("segment image.zarr --fn stardist:models/120 --merge none --write-to o2") == 0
    assert ((read("o1") > 0) == (image > 110)).all()
    assert ((read("o2") > 0) == (image > 120)).all()


@pytest.mark.filterwarnings("ignore:use_gpu=True")
def test_use_gpu_reaches_the_model(image, plugins):
    name = read_fn_name("cellpose:110")
    tile = np.array([[200]])
    assert name.load(use_gpu=True)(tile) == 2
    assert name.load(use_gpu=False)(tile) == 1


SEGMENT = "segment image.zarr --tile-shape 30,30 --merge none --write-to out.zarr --fn"


def test_the_folder_of_a_function_is_not_left_in_the_path(image, here):
    (here / "local_finder.py").write_text("from local_helper import find\n")
    (here / "local_helper.py").write_text(FIND)
    before = list(sys.path)
    assert run(f"{SEGMENT} local_finder:find") == 0
    assert sys.path == before
    assert ((read("out.zarr") > 0) == (image > 110)).all()


@pytest.mark.parametrize("name", ["numpy", "json", "test", "dask.array", "sys"])
def test_a_module_that_has_the_name_of_an_installed_one_is_refused(name, image, here, capsys):
    top = name.partition(".")[0]
    (here / f"{top}.py").write_text(FIND + "raise SystemExit('imported')\n")
    assert run(f"{SEGMENT} {name}:find") == 2
    said = capsys.readouterr().err
    assert f"--fn {name}:find: {here}/{top}.py has the name of another module, " in said
    assert "rename it" in said


def test_an_installed_module_is_taken_where_the_folder_has_none_of_its_name(image, here):
    (here / "numpy").mkdir()
    assert run(f"{SEGMENT} numpy:zeros_like") == 0


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_module_beside_the_function_takes_the_place_of_no_installed_one(scheduler, image, here):
    for name in ("numpy", "dask", "scipy", "cloudpickle", "skimage", "json"):
        (here / f"{name}.py").write_text("raise SystemExit('imported')\n")
    (here / "late_helper.py").write_text(FIND)
    (here / "late_finder.py").write_text(
        "import json, threading\nlock = threading.Lock()\n"
        "def find(tile):\n    with lock:\n        import late_helper\n        return late_helper.find(tile)\n"
    )
    options = f"{SEGMENT} late_finder:find --scheduler {scheduler} --workers 2 --verbose".split()
    done = run_module(*options, folder=here)
    assert done.returncode == 0, done.stderr
    assert ((read("out.zarr") > 0) == (image > 110)).all()
