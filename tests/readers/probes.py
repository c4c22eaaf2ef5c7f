"""What other libraries see of a label image in an image's store, each through its own reader."""

from dataclasses import dataclass

import numpy as np
import zarr


@dataclass(frozen=True)
class Seen:
    """A label image as a library sees it; ``None`` is what it does not tell."""

    axes: str
    pixels: list[np.ndarray]
    scales: list[list[float]]
    units: list[str | None]
    translations: list[list[float] | None] | None = None
    names: list[str] | None = None


def read_with_ome_zarr_models(path, name):
    """Validate the image with all its label images, then the label image by itself."""
    import ome_zarr_models

    root = ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))
    assert root.labels is not None
    model = ome_zarr_models.open_ome_zarr(zarr.open_group(path / "labels" / name, mode="r"))
    assert type(model).__name__ == "ImageLabel"
    found = getattr(model, "ome_attributes", model.attributes)
    assert found.image_label.source.image == "../../"
    return _stated_by_models(found, path / "labels" / name, _listed(root.labels))


def _listed(labels):
    return list(getattr(labels, "label_paths", None) or labels.attributes.labels)


def _stated_by_models(found, path, names):
    (multiscale,) = found.multiscales
    moves = [dataset.coordinateTransformations for dataset in multiscale.datasets]
    return Seen(
        axes="".join(axis.name for axis in multiscale.axes),
        pixels=[zarr.open_array(path / dataset.path, mode="r")[...] for dataset in multiscale.datasets],
        scales=[list(parts[0].scale) for parts in moves],
        units=[axis.unit for axis in multiscale.axes],
        translations=[list(parts[1].translation) if parts[1:] else None for parts in moves],
        names=names,
    )


def read_with_ome_zarr(path, name):
    """Walk from the image to its label images."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Reader

    nodes = {node.zarr.basename(): node for node in Reader(parse_url(str(path)))() if node.first(Label)}
    node = nodes[name]
    moves = node.metadata["coordinateTransformations"]
    axes = node.metadata["axes"]
    return Seen(
        axes="".join(axis["name"] for axis in axes),
        pixels=[np.asarray(level) for level in node.data],
        scales=[parts[0]["scale"] for parts in moves],
        units=[axis.get("unit") for axis in axes],
        translations=[parts[1]["translation"] if parts[1:] else None for parts in moves],
        names=list(nodes),
    )


def read_with_ngio(path, name):
    """Open the image, ask for its labels, and for each level of one."""
    import ngio

    container = ngio.open_ome_zarr_container(str(path), mode="r")
    levels = container.get_label(name).meta.datasets
    labels = [container.get_label(name, path=level.path) for level in levels]
    first = labels[0]
    units = {"z": first.space_unit, "y": first.space_unit, "x": first.space_unit, "t": first.time_unit}
    return Seen(
        axes="".join(first.axes),
        pixels=[label.get_as_numpy() for label in labels],
        scales=[list(level.scale) for level in levels],
        units=[units.get(axis) for axis in first.axes],
        translations=[list(level.translation) for level in levels],
        names=container.list_labels(),
    )


def read_with_ngff_zarr(path, name):
    """Read the label image with its metadata validated, against both schemas that there are."""
    import ngff_zarr
    from ngff_zarr.validate import validate

    found = ngff_zarr.from_ngff_zarr(str(path / "labels" / name), validate=True)
    attributes = zarr.open_group(path / "labels" / name, mode="r").attrs.asdict()
    version = attributes.get("ome", {}).get("version", "0.4")
    validate(attributes, version=version, model="image", strict=True)
    validate(attributes, version=version, model="label")
    images, axes = found.images, found.images[0].dims
    return Seen(
        axes="".join(axes),
        pixels=[np.asarray(image.data) for image in images],
        scales=[[image.scale[axis] for axis in axes] for image in images],
        units=[(images[0].axes_units or {}).get(axis) for axis in axes],
        translations=[[image.translation[axis] for axis in axes] for image in images],
    )


def read_with_napari(path, name):
    """Ask the plugin for the layers of the image; napari takes the scales of coarser levels from their shapes."""
    from napari_ome_zarr import napari_get_reader

    layers = napari_get_reader(str(path))(str(path))
    labels = {options["name"]: (levels, options) for levels, options, kind in layers if kind == "labels"}
    levels, options = labels[name]
    return Seen(
        axes="".join(options["axis_labels"]),
        pixels=[np.asarray(level) for level in levels],
        scales=[list(options["scale"])],
        units=list(options.get("units", [None] * len(options["axis_labels"]))),
        names=list(labels),
    )
