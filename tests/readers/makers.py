"""Images in stores that other libraries made: with units, pyramids, channels, other label images."""

import warnings
from dataclasses import dataclass

import numpy as np
import zarr
from scipy import ndimage

# Primes, so that no level is a whole fraction of the one before.
LENGTHS = {"t": 3, "c": 2, "z": 7, "y": 67, "x": 83}
SCALES = {"t": 1.5, "c": 1.0, "z": 0.7, "y": 0.26, "x": 0.31}
ORIGINS = {"t": 0.0, "c": 0.0, "z": 5.25, "y": -3.5, "x": 12.125}
UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
CHANNELS = ["nuclei", "membranes"]
# A tenth of the voxels are brighter, in every channel: more, and in 3-D all objects would be one.
THRESHOLD = 43000


@dataclass(frozen=True)
class Kind:
    """A store: who makes it, in which version of OME-NGFF, with which axes."""

    maker: str
    version: str
    axes: str

    def __str__(self):
        return f"{self.maker}-{self.version}-{self.axes}"


KINDS = [
    Kind(maker, version, axes)
    for maker in ("ome_zarr", "ngff_zarr", "ngio")
    for version in ("0.4", "0.5")
    for axes in ("yx", "cyx", "zyx", "czyx", "tcyx")
]


def pixels(axes, lengths):
    """Blobs of all sizes, other ones in each channel and at each time."""
    noise = np.random.default_rng(7).normal(size=[lengths[axis] for axis in axes])
    smooth = ndimage.gaussian_filter(noise, [0 if axis in "tc" else 1.5 for axis in axes])
    return np.clip(32768 + 8000 * smooth / smooth.std(), 0, 65535).astype("uint16")


def make_image(kind, path, lengths=LENGTHS):
    """Make an image; return its pixels."""
    image = pixels(kind.axes, lengths)
    with warnings.catch_warnings():
        # How these libraries call each other is not for us to mend.
        warnings.simplefilter("ignore")
        MAKERS[kind.maker](kind, path, image)
    return image


def make_with_ome_zarr(kind, path, image):
    """Halved in y and x only; with channels display settings and a label image, with z consolidated metadata."""
    from ome_zarr.format import format_from_version
    from ome_zarr.writer import write_labels, write_multiscale

    levels = [image, image[..., ::2, ::2], image[..., ::4, ::4]]
    units = {axis: unit for axis, unit in UNITS.items() if axis in kind.axes}
    fmt = format_from_version(kind.version)
    group = zarr.open_group(path, mode="w", zarr_format=fmt.zarr_format)
    extra = {"metadata": {"omero": _omero()}} if "c" in kind.axes else {}
    moves = [_moves(kind.axes, 2**number) for number in range(len(levels))]
    options = {"axes": kind.axes, "axes_units": units, "fmt": fmt, "name": "made", **extra}
    chunks = {"chunks": _chunks(image)}
    write_multiscale(levels, group, coordinate_transformations=moves, storage_options=chunks, **options)
    if "c" in kind.axes:
        plain = kind.axes.replace("c", "")
        factors = [{axis: 2**n if axis in "yx" else 1 for axis in plain} for n in (1, 2)]
        ones = np.ones_like(image.take(0, axis=kind.axes.index("c")), "int32")
        write_labels(ones, group, "other", scaler=None, scale_factors=factors, axes=plain, fmt=fmt)
    if "z" in kind.axes:
        zarr.consolidate_metadata(path)


def make_with_ngff_zarr(kind, path, image):
    """Halved in all directions of space, and moved by half a voxel; with consolidated metadata."""
    import ngff_zarr

    space = [axis for axis in kind.axes if axis in "zyx"]
    made = ngff_zarr.to_ngff_image(
        image,
        dims=list(kind.axes),
        scale={axis: SCALES[axis] for axis in kind.axes},
        translation={axis: ORIGINS[axis] for axis in kind.axes},
        name="made",
        axes_units={axis: UNITS[axis] for axis in kind.axes if axis in UNITS},
    )
    factors = [dict.fromkeys(space, 2), dict.fromkeys(space, 4)]
    method = ngff_zarr.Methods.DASK_BIN_SHRINK
    chunks = dict(zip(kind.axes, _chunks(image), strict=True))
    levels = ngff_zarr.to_multiscales(made, scale_factors=factors, method=method, chunks=chunks, cache=False)
    ngff_zarr.to_ngff_zarr(str(path), levels, version=kind.version)


def make_with_ngio(kind, path, image):
    """Halved in y and x only; with a label image of ngio's own."""
    import ngio

    made = ngio.create_ome_zarr_from_array(
        str(path),
        image,
        pixelsize=(SCALES["y"], SCALES["x"]),
        z_spacing=SCALES["z"],
        time_spacing=SCALES["t"],
        levels=3,
        scaling_factors=[2.0 if axis in "yx" else 1.0 for axis in kind.axes],
        translation=[ORIGINS[axis] for axis in kind.axes],
        axes_names=list(kind.axes),
        channels_meta=CHANNELS if "c" in kind.axes else None,
        name="made",
        ngff_version=kind.version,
        chunks=_chunks(image),
    )
    other = made.derive_label("other")
    other.set_array(np.ones(other.shape, other.dtype))
    other.consolidate()


MAKERS = {"ome_zarr": make_with_ome_zarr, "ngff_zarr": make_with_ngff_zarr, "ngio": make_with_ngio}


def _chunks(image):
    """A third of a plane, which fits no level and no tile."""
    return (1,) * (image.ndim - 2) + tuple(-(-n // 3) for n in image.shape[-2:])


def _moves(axes, factor):
    """Scale and translation of a level that has every n-th voxel of y and x."""
    scale = [SCALES[axis] * (factor if axis in "yx" else 1) for axis in axes]
    return [
        {"type": "scale", "scale": scale},
        {"type": "translation", "translation": [ORIGINS[axis] for axis in axes]},
    ]


def _omero():
    window = {"min": 0, "max": 65535, "start": 100, "end": 60000}
    colors = ["00FF00", "FF00FF"]
    pairs = zip(CHANNELS, colors, strict=True)
    return {
        "channels": [{"label": name, "color": color, "active": True, "window": window} for name, color in pairs]
    }
