"""Where labels go: one class for each kind of output. A run knows the base class alone."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import zarr

from blockbuster.compat import open_labels
from blockbuster.errors import warn_user
from blockbuster.output.downsample import Coarsening
from blockbuster.output.feature_table import FeatureTable
from blockbuster.output.groups import EnclosingGroups, LabelImageGroups, is_ome_image, is_ome_labels
from blockbuster.output.layout import ArrayLayout, OutputLayout, coarse_chunks, image_attributes
from blockbuster.output.nodes import zarr_node
from blockbuster.output.partial import PartialFolder
from blockbuster.output.pyramid import PyramidTarget
from blockbuster.output.targets import Target
from blockbuster.report import OBJECTS
from blockbuster.rundir.durable import METADATA_BYTES, full_disk_explained
from blockbuster.source.geometry import Geometry, geometry_of_level, read_geometry

# Of OME-NGFF, that label images are written in, and the format of zarr that each goes with.
LABEL_VERSIONS = {"0.4": 2, "0.5": 3}
_LINK = "output_component: {} is a symbolic link and is left alone; choose another output_component."


@dataclass(frozen=True)
class OutputPlace(ABC):
    """Where the labels will be, inside a zarr group on a file system.

    Parameters
    ----------
    store : str
        Absolute path of the group.
    component : str
        Name of the labels inside it.
    replaces : bool
        Whether what lies there when the labels are complete may be replaced.
    has_table : bool
        Whether a table of the objects comes with the labels.
    """

    store: str
    component: str
    replaces: bool = True
    has_table: bool = False

    # What it is called, and where the finest of its levels lies in its folder, with the report.
    noun: ClassVar[str]
    finest: ClassVar[str] = ""

    @property
    def path(self) -> str:
        """Folder of the labels."""
        return os.path.join(self.store, *self.component.split("/"))

    @property
    def array_path(self) -> str:
        """Folder of the finest labels, of the report, and of the table of objects."""
        return str(Path(self.path, self.finest))

    @property
    def feature_table(self) -> FeatureTable | None:
        """The table as readers of images look for one, for places that have it."""
        return None

    @property
    def is_in_new_store(self) -> bool:
        """Whether there is no such store yet, or an empty folder."""
        store = Path(self.store)
        return not os.path.lexists(store) or (store.is_dir() and not any(store.iterdir()))

    def sibling(self, suffix: str) -> str:
        """Path beside the store that belongs to this output."""
        return f"{self.store}.{self.component.replace('/', '.')}.blockbuster-{suffix}"

    @property
    def partial(self) -> PartialFolder:
        """Folder in which the labels are made."""
        return PartialFolder(self.sibling("partial"), self.path, self.feature_table)

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """Format of the group as zarr reads it; of a new one that of the group around it, or 3."""
        for folder in (self.store, os.path.dirname(self.store)):
            if os.path.exists(os.path.join(folder, "zarr.json")):
                return 3
            if os.path.exists(os.path.join(folder, ".zgroup")):
                return 2
        return 3

    @staticmethod
    @abstractmethod
    def suits(store: str, component: str) -> bool:
        """Return whether labels of this name in this store are of this kind."""

    @staticmethod
    @abstractmethod
    def is_at(path: str) -> bool:
        """Return whether labels of this kind, which may be replaced, lie at a path."""

    @abstractmethod
    def layout(self, array: ArrayLayout, geometry: Geometry | None) -> OutputLayout:
        """Describe what will be stored of labels with the geometry that `find_geometry` found."""

    @property
    def groups(self) -> EnclosingGroups:
        """The groups whose metadata are to tell of the labels."""
        return EnclosingGroups(self.store, self.path, self.zarr_format)

    def check_image(self, image: str | None) -> None:
        """Refuse a place where the labels would spoil an image: that which is read, or another."""
        if is_ome_image(self.store):
            raise ValueError(
                f"write_to: {self.store} is an OME-Zarr image; labels inside it are named "
                "output_component='labels/NAME', or give another path."
            )
        if image is not None:
            check_apart(self.path, "write_to", image)

    def find_geometry(
        self, image: Any, level: int, shape: tuple[int, ...], *, path: str | None
    ) -> Geometry | None:
        """Find out where the labels lie in the world.

        Parameters
        ----------
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
            Its first level is the one that is segmented. ``None`` where nothing is known.

        Raises
        ------
        ValueError
            If the image's metadata are broken, or labels of this kind cannot be written for it.
        """
        return geometry_of_level(image, level)

    def create(self, store: str, layout: OutputLayout) -> None:
        """Create a store with the labels, all background."""
        # zarr would take # and ? in a path given as text for parts of a URL.
        with full_disk_explained(store, METADATA_BYTES):
            layout.create(zarr.create_group(Path(store), zarr_format=self.zarr_format), self.component)

    def target(self, folder: str, layout: OutputLayout) -> Target:
        """Return what writes boxes of labels that are made in a folder."""
        return PyramidTarget.of_levels(folder, layout, self.partial.path)

    def read(self, *, compute: bool) -> Any:
        """Return the labels that are there: in memory, or as a dask array."""
        labels = open_labels(self.array_path)
        if compute:
            return np.asarray(labels[...])
        import dask.array as da

        return da.from_array(labels, chunks=labels.shards or labels.chunks)

    def fault(self, *, overwrite: bool) -> str:
        """Describe why the labels cannot be written here; empty when they can."""
        in_the_way = self.partial.fault()
        if in_the_way:
            return f"write_to: {in_the_way}"
        store = Path(self.store)
        if self.is_in_new_store:
            return ""
        if not store.is_dir():
            return f"write_to: {store} is a file; give a new path, or an existing zarr group."
        if zarr_node(store) != "group":
            return f"write_to: {store} is not a zarr group and is left alone; give a new path."
        table = self.feature_table
        wrong = "" if table is None else table.fault(wanted=self.has_table, overwrite=overwrite)
        return self._component_fault(overwrite) or wrong

    def _component_fault(self, overwrite: bool) -> str:
        path = Path(self.store)
        *groups, name = self.component.split("/")
        for part in groups:
            path = path / part
            if path.is_symlink():
                return _LINK.format(path)
            if zarr_node(path) not in ("group", ""):
                return f"output_component: {path} is not a zarr group; choose another output_component."
        path = path / name
        if path.is_symlink():
            return _LINK.format(path)
        exists = os.path.lexists(path)
        if exists and not self.is_at(str(path)):
            return f"output_component: {path} exists and is not a {self.noun}; choose another output_component."
        if exists and not overwrite:
            return f"{path} exists; pass overwrite=True to replace it, or choose another output_component."
        aside = self.partial.aside
        if os.path.lexists(aside) and not exists and not overwrite:
            return (
                f"{path} was put aside as {aside} by a run that was interrupted; pass resume=True to finish that "
                "run, overwrite=True to replace it, or move it back."
            )
        return ""


class ArrayPlace(OutputPlace):
    """A zarr array of its own; what is known of its place in the world goes into its attributes."""

    noun = "zarr array"

    @staticmethod
    def suits(store: str, component: str) -> bool:
        """Any name is that of an array."""
        return True

    @staticmethod
    def is_at(path: str) -> bool:
        """Return whether an array lies at a path."""
        return zarr_node(Path(path)) == "array"

    def layout(self, array: ArrayLayout, geometry: Geometry | None) -> OutputLayout:
        """Describe the array."""
        found = None if geometry is None else geometry.for_labels(len(array.shape))
        if found is None or len(found.axes) != len(array.shape):
            return OutputLayout((array,))
        transformations = [*found.levels[0].transformations, *found.transformations]
        attributes: dict[str, Any] = {"axes": list(found.axes)}
        if transformations:
            attributes["coordinateTransformations"] = transformations
        return OutputLayout((replace(array, attributes=attributes),))


class LabelImagePlace(OutputPlace):
    """An OME-NGFF label image in an OME-Zarr image: a group with its levels, and listed there.

    References
    ----------
    J. Moore et al. (2021), OME-NGFF: a next-generation file format for expanding bioimaging
    data-access strategies. Nature Methods 18: 1496-1498; specification 0.4 and 0.5, section
    "labels".
    """

    noun, finest = "label image", "0"

    @staticmethod
    def suits(store: str, component: str) -> bool:
        """Return whether it is ``labels/NAME`` of an OME-Zarr image."""
        parent, _, name = component.partition("/")
        return parent == "labels" and bool(name) and "/" not in name and is_ome_image(store)

    @staticmethod
    def is_at(path: str) -> bool:
        """Return whether a label image lies at a path."""
        return is_ome_labels(path)

    @property
    def groups(self) -> EnclosingGroups:
        """The groups whose metadata are to tell of the labels; the innermost one lists them."""
        return LabelImageGroups(self.store, self.path, self.zarr_format, self.feature_table, self.has_table)

    @property
    def feature_table(self) -> FeatureTable:
        """The table of the same name in the image."""
        name, objects = os.path.basename(self.path), os.path.join(self.array_path, OBJECTS)
        return FeatureTable(self.store, name, self.zarr_format, objects, self.sibling("partial"))

    def check_image(self, image: str | None) -> None:
        """Refuse to replace the image, or what holds it; a label image may lie in it."""
        if image is not None:
            check_apart(self.path, "write_to", image, inside_allowed=True)

    def find_geometry(
        self, image: Any, level: int, shape: tuple[int, ...], *, path: str | None
    ) -> Geometry | None:
        """Take the levels of the image around the labels, from the one on that has their shape."""
        found = read_geometry(self.store)
        version = found.version if found is not None else "before 0.3"
        if found is None or version not in LABEL_VERSIONS:
            raise ValueError(
                f"write_to: {self.store} is an OME-Zarr image of version {version}; label images are written for "
                f"{' and '.join(LABEL_VERSIONS)}. Convert it, or give a new path."
            )
        if self.zarr_format != LABEL_VERSIONS[version]:
            raise ValueError(
                f"write_to: {self.store} has OME-Zarr metadata of version {version} in zarr format "
                f"{self.zarr_format}; label images are written for 0.4 in format 2 and 0.5 in format 3. Convert "
                "it, or give a new path."
            )
        plain = found.without_channel().levels
        if path == self.store:
            number: int | None = level
        else:
            pairs = enumerate(zip(found.levels, plain, strict=True))
            number = next((i for i, (whole, part) in pairs if shape in (whole.shape, part.shape)), None)
        if number is None or number >= len(found.levels):
            shapes = ", ".join(str(part.shape) for part in plain)
            raise ValueError(
                f"write_to: the image has shape {shape}, and no level of {self.store} has it: {shapes}, apart "
                "from channels. Give a new path."
            )
        # A label image must have as many levels as its image.
        # How much coarser a next level is, also where the last one was segmented, its image tells.
        return found.with_levels(len(found.levels) + number).from_level(number)

    def layout(self, array: ArrayLayout, geometry: Geometry | None) -> OutputLayout:
        """Describe the levels."""
        assert geometry is not None
        found = geometry.for_labels(len(array.shape))
        first = replace(array, names=tuple(str(axis["name"]) for axis in found.axes), path=self.finest)
        arrays, steps = [first], []
        for number, level in enumerate(found.levels[1:]):
            step = Coarsening(found.levels[number].shape, level.shape, found.ratio(number))
            chunk, shard = coarse_chunks(level.shape, arrays[-1].shard, step.blocks)
            arrays.append(replace(first, shape=level.shape, chunk=chunk, shard=shard, path=str(number + 1)))
            steps.append(step)
        attributes = image_attributes(found, os.path.basename(self.path))
        return OutputLayout(tuple(arrays), attributes, tuple(steps))


# The first that suits is taken.
KINDS: tuple[type[OutputPlace], ...] = (LabelImagePlace, ArrayPlace)


def check_independent(place: OutputPlace) -> None:
    """Refuse labels that are a label image or a level of one, to be changed by themselves.

    Raises
    ------
    ValueError
        If they are.
    """
    for folder in filter(is_ome_labels, (place.path, os.path.dirname(place.path))):
        raise ValueError(
            f"{folder} is a label image, whose levels must fit each other; segment again with "
            "sequential_labels=True and overwrite=True."
        )


def warn_of_transformations_left_out(place: OutputPlace | None, geometry: Geometry | None) -> None:
    """Warn where labels will not lie where their image does, since they lack transformations."""
    if place is None or geometry is None or not geometry.left_out:
        return
    warn_user(
        f"{place.path} will not lie where its image does: labels take over scales and translations, and the "
        f"image's coordinateTransformations have {', '.join(geometry.left_out)} too. Copy that into the metadata "
        "of the labels, for readers that know it."
    )


def check_apart(path: str, name: str, image: str, *, inside_allowed: bool = False) -> None:
    """Refuse a path that is the input, lies in it, or holds it."""
    if lies_in(image, path):
        what = "is the image itself" if lies_in(path, image) else f"holds the image {image}"
        raise ValueError(f"{name}: {path} {what}; give another path.")
    if lies_in(path, image) and not inside_allowed:
        raise ValueError(f"{name}: {path} lies in the image {image}; give another path.")


def lies_in(path: str, folder: str) -> bool:
    """Return whether a path is a folder or lies in it, links followed."""
    folder, path = os.path.realpath(folder), os.path.realpath(path)
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
