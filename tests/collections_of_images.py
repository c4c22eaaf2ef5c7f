"""Images, plates and bioformats2raw collections, as ome-zarr-py and bioformats2raw write them."""

import functools
import warnings

import zarr


@functools.cache
def ome_writer():
    """The module of ome-zarr-py, which warns of itself when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from ome_zarr import writer
    return writer


def write_pyramid(path, pixels, axes, zarr_format=3, chunk=64, factors=(2,), **metadata):
    """An image and its coarser levels, s0, s1, ..."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    chunks = tuple(1 if axis in "tc" else min(n, chunk) for axis, n in zip(axes, pixels.shape, strict=True))
    options = {"chunks": chunks}
    ome_writer().write_image(
        pixels, group, axes=axes, scale_factors=list(factors), storage_options=options, **metadata
    )
    return path


def write_plate(path, pixels, n_rows, n_columns, n_fields=1, zarr_format=3, stored=None):
    """A plate whose metadata name all wells, of which the first `stored` are there, with images in them."""
    plate = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    rows, columns = (
        list(names) for names in (map(chr, range(65, 65 + n_rows)), map(str, range(1, n_columns + 1)))
    )
    wells = [f"{row}/{column}" for row in rows for column in columns]
    ome_writer().write_plate_metadata(plate, rows, columns, wells, field_count=n_fields)
    for name in wells[:stored]:
        well = plate.require_group(name)
        fields = list(map(str, range(n_fields)))
        ome_writer().write_well_metadata(well, fields)
        for field in fields:
            write_pyramid(path / name / field, pixels, "yx", zarr_format, factors=())
    return path


def write_bioformats2raw(path, images, zarr_format=3, series=None):
    """A collection by hand: images by name, and the order of `series`, where it is given."""

    def note(group, metadata):
        group.attrs.update({"ome": {"version": "0.5", **metadata}} if zarr_format == 3 else metadata)

    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    note(
        root, {"version": "0.5", "bioformats2raw.layout": 3} if zarr_format == 3 else {"bioformats2raw.layout": 3}
    )
    described = root.create_group("OME")
    (path / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    if series is not None:
        note(described, {"series": list(series)})
    for name, pixels in images.items():
        write_pyramid(path / name, pixels, "yx", zarr_format, factors=())
    return path
