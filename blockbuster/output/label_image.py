"""Which levels and axes labels have that are written into an OME-Zarr image, or beside one."""

from __future__ import annotations

from typing import Any

from blockbuster.errors import warn_user
from blockbuster.output.publishing import OutputPlace
from blockbuster.source.geometry import Geometry, read_geometry

__all__ = ["LABEL_VERSIONS", "geometry_of_labels", "warn_of_transformations_left_out"]

# Of OME-NGFF, that label images are written in, and the format of zarr that each goes with.
LABEL_VERSIONS = {"0.4": 2, "0.5": 3}


def geometry_of_labels(
    place: OutputPlace | None, image: Any, level: int, shape: tuple[int, ...], *, path: str | None
) -> Geometry | None:
    """Find out where labels lie in the world.

    Parameters
    ----------
    place : OutputPlace or None
        Where they will be written; ``None``: nowhere, and no metadata are read.
    image : object
        What is segmented, as the user gave it.
    level : int
        The level of the image's pyramid that is segmented.
    shape : tuple of int
        Of what is segmented, with or without its channel axis.
    path : str or None
        Local path of the image's root.

    Returns
    -------
    Geometry or None
        Its first level is the one that is segmented. ``None`` where nothing is known, or need be.

    Raises
    ------
    ValueError
        If the image's metadata are broken, or a label image cannot be written at the place: its image is of
        another version of OME-NGFF, or none of the levels of its image has the shape of the labels.
    """
    if place is None:
        return None
    if not place.is_label_image:
        found = read_geometry(image)
        return None if found is None or level >= len(found.levels) else found.from_level(level)
    found = read_geometry(place.store)
    version = found.version if found is not None else "before 0.3"
    if found is None or version not in LABEL_VERSIONS:
        raise ValueError(
            f"write_to: {place.store} is an OME-Zarr image of version {version}; label images are written for "
            f"{' and '.join(LABEL_VERSIONS)}. Convert it, or give a new path."
        )
    if place.zarr_format != LABEL_VERSIONS[version]:
        raise ValueError(
            f"write_to: {place.store} has OME-Zarr metadata of version {version} in zarr format "
            f"{place.zarr_format}; label images are written for 0.4 in format 2 and 0.5 in format 3. Convert it, "
            "or give a new path."
        )
    number = level if path == place.store else _level_of(found, shape)
    if number is None or number >= len(found.levels):
        shapes = ", ".join(str(part.shape) for part in found.without_channel().levels)
        raise ValueError(
            f"write_to: the image has shape {shape}, and no level of {place.store} has it: {shapes}, apart from "
            "channels. Give a new path."
        )
    # A label image must have as many levels as its image.
    # How much coarser a next level is, also where the last one was segmented, its image tells.
    return found.with_levels(len(found.levels) + number).from_level(number)


def warn_of_transformations_left_out(place: OutputPlace | None, geometry: Geometry | None) -> None:
    """Warn where labels will be written that lie elsewhere in the world than their image says that it lies."""
    if place is None or geometry is None or not geometry.left_out:
        return
    warn_user(
        f"{place.path} will not lie where its image does: labels take over scales and translations, and the "
        f"image's coordinateTransformations have {', '.join(geometry.left_out)} too. Copy that into the metadata "
        "of the labels, for readers that know it."
    )


def _level_of(geometry: Geometry, shape: tuple[int, ...]) -> int | None:
    """Find the level of which something of `shape` was made."""
    plain = geometry.without_channel()
    pairs = enumerate(zip(geometry.levels, plain.levels, strict=True))
    return next((number for number, (whole, level) in pairs if shape in (whole.shape, level.shape)), None)
