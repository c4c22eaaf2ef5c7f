"""Packages that take the place of Cellpose, PyTorch, StarDist and TensorFlow where these are not installed.

They have the signatures of the real ones, refuse what those misread, and label what is above a threshold, which
is all that their files of weights hold. What the real ones do is tested in tests/models.
"""

import json
import textwrap

EVAL = {
    "3.1.1": "batch_size=8, resample=True, channels=None, channel_axis=None, z_axis=None, normalize=True, "
    "invert=False, rescale=None, diameter=None, flow_threshold=0.4, cellprob_threshold=0.0, do_3D=False, "
    "anisotropy=None, flow3D_smooth=0, stitch_threshold=0.0, min_size=15, max_size_fraction=0.4, niter=None, "
    "augment=False, tile_overlap=0.1, bsize=224, interp=True, compute_masks=True, progress=None",
    "4.2.1": "batch_size=8, resample=True, channels=None, channel_axis=None, z_axis=None, normalize=True, "
    "rescale=None, diameter=None, flow_threshold=0.4, cellprob_threshold=0.0, do_3D=False, anisotropy=None, "
    "flow3D_smooth=0, stitch_threshold=0.0, min_size=15, max_size_fraction=0.4, niter=None, augment=False, "
    "tile_overlap=0.1, bsize=None, compute_masks=True, progress=None",
}
NAMES = {"3.1.1": ["cyto3", "nuclei", "transformer_cp3"], "4.2.1": ["cpsam_v2", "cpsam"]}

CELLPOSE = """
    import os, pathlib, threading, types
    import numpy as np
    from scipy import ndimage

    MODEL_DIR = pathlib.Path({folder!r})
    MODEL_NAMES = {names!r}
    # Most patches at once, and how many evaluations go well.
    loads, calls, memory, inside = [], [], [64, 10**6], []

    def get_user_models():
        return [path.stem for path in MODEL_DIR.glob("*.user")] + [path.name for path in MODEL_DIR.glob("mine*")]

    class CellposeModel:
        diam_mean, diam_labels = 30.0, 30.0

        def __init__(self, gpu=False, pretrained_model=None, model_type=None, backbone="default"):
            name = model_type or pretrained_model
            self.threshold = float(pathlib.Path(name).read_text()) if os.path.isfile(name) else 100.0
            self.device = types.SimpleNamespace(type="cpu")
            loads.append((name, gpu, backbone))

        def eval(self, x, {signature}):
            inside.append(threading.get_ident())
            assert len(inside) == 1, "two evaluations at once"
            try:
                calls.append(dict(locals(), threshold=self.threshold))
                if batch_size > memory[0] or len(calls) > memory[1]:
                    x *= 0  # Cellpose normalises in place
                    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
                volume = do_3D or stitch_threshold > 0
                assert x.dtype == np.float32 and x.ndim == (4 if volume else 3) and channel_axis == x.ndim - 1
                assert z_axis == (0 if volume else None) and channels is None
                masks = ndimage.label(x[..., 0] > self.threshold)[0].astype("uint16").squeeze()
                return masks, [], []
            finally:
                inside.clear()

    class OutOfMemoryError(RuntimeError):
        pass
"""

STARDIST = """
    import pathlib
    import numpy as np
    from scipy import ndimage

    loads, calls, memory = [], [], [1]

    class Base:
        config = None

        def __init__(self, config, name, basedir):
            import json, types
            folder = pathlib.Path(basedir, name)
            self.config = types.SimpleNamespace(**json.loads((folder / "config.json").read_text()))
            self.threshold = float((folder / "weights_best.h5").read_text())
            loads.append(str(folder))
            print("Loading network weights")

        def predict_instances(
            self, img, axes=None, normalizer=None, sparse=True, prob_thresh=None, nms_thresh=None, scale=None,
            n_tiles=None, show_tile_progress=True, verbose=False, return_labels=True, predict_kwargs=None,
            nms_kwargs=None, overlap_label=None, return_predict=False,
        ):
            (nms_kwargs or {}).setdefault("verbose", verbose)
            calls.append(dict(locals(), img=img.copy()))
            if np.prod(n_tiles or 1) < memory[0]:
                raise ResourceExhaustedError("OOM when allocating tensor")
            assert img.dtype == np.float32 and axes == "ZYXC"[-img.ndim:]
            return ndimage.label(img[..., 0] > self.threshold)[0].astype("int32"), {}

    class StarDist2D(Base): pass
    class StarDist3D(Base): pass
    class ResourceExhaustedError(Exception): pass
"""

PRETRAINED = """
    def get_registered_models(kind):
        if kind.__name__ == "StarDist3D":
            return ("3D_demo",), {"3D_demo": ()}
        return ("2D_versatile_fluo",), {"2D_versatile_fluo": ("Versatile (fluorescent nuclei)",)}
"""
TORCH = "class cuda:\n    emptied = 0\n    @classmethod\n    def empty_cache(cls): cls.emptied += 1\n"
TENSORFLOW = "class config:\n    list_physical_devices = staticmethod(lambda kind: [])\n"


def write_package(root, name, version, **modules):
    """Write an installed package: its modules, and what the package index says of it."""
    folder = root / name
    folder.mkdir(parents=True)
    for module, text in {"__init__": "", **modules}.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(text))
    metadata = root / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def write_cellpose(root, version):
    """Write Cellpose and PyTorch."""
    text = CELLPOSE.format(folder=str(root / "models"), names=NAMES[version], signature=EVAL[version])
    write_package(root, "cellpose", version, models=text)
    write_package(root, "torch", "2.13.0", __init__=TORCH)


def write_stardist(root):
    """Write StarDist, CSBDeep and TensorFlow."""
    write_package(root, "stardist", "0.9.2", models=STARDIST)
    write_package(root, "csbdeep", "0.8.2")
    (root / "csbdeep" / "models").mkdir()
    (root / "csbdeep" / "models" / "__init__.py").write_text("")
    (root / "csbdeep" / "models" / "pretrained.py").write_text(textwrap.dedent(PRETRAINED))
    write_package(root, "tensorflow", "2.21.0", __init__=TENSORFLOW)


def write_stardist_model(folder, threshold, *, n_dim=2, n_channel_in=1):
    """Write the folder of a trained model."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"n_dim": n_dim, "n_channel_in": n_channel_in}))
    (folder / "weights_best.h5").write_text(str(threshold))
    return folder
