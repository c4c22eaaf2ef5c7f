"""Read the table of the objects of labels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from blockbuster.measure.table import check_extra, read_about
from blockbuster.report import OBJECTS
from blockbuster.report.run import find_labels

if TYPE_CHECKING:
    import pyarrow

OPERATORS = ("==", "=", "!=", "<", "<=", ">", ">=", "in", "not in")
WHERE_RULE = "it is a condition (column, operator, value), or a list of conditions that all hold"
Path = str | os.PathLike[str]
Condition = tuple[str, str, Any]


def read_objects(
    path: Path,
    component: str = "labels",
    *,
    columns: str | Sequence[str] | None = None,
    where: Condition | Sequence[Condition] | Any = None,
    as_arrow: bool = False,
) -> Any:
    """Read the table of the objects of labels that were measured.

    Parameters
    ----------
    path : path
        The zarr group that holds the labels, ``write_to`` of the run.
    component : str
        Name of the label array or label image inside it, ``output_component`` of the run.
    columns : str or list of str, optional
        The columns to read. The first part of a name stands for all columns that have it:
        ``"centroid"`` for ``"centroid-0"`` and ``"centroid-1"``, ``"intensity_mean"`` for that of
        every channel. ``None``: all.
    where : tuple, list of tuple or pyarrow.compute.Expression, optional
        Which objects to read: a condition such as ``("area", ">", 100)``, a list of conditions that
        all hold, or an expression of pyarrow for anything else. Operators are ``==``, ``!=``,
        ``<``, ``<=``, ``>``, ``>=``, ``in`` and ``not in``. Where a value is not known no condition
        holds. Conditions may be on columns that are not read.
    as_arrow : bool
        Return a table of pyarrow: without a copy, and with nulls for what is not known.

    Returns
    -------
    pandas.DataFrame or pyarrow.Table
        One row for each object, labels ascending. What is not known is NaN.

    Raises
    ------
    FileNotFoundError
        If there are no such labels, or they were not measured.
    TypeError, ValueError
        For columns that are not there, conditions that make no sense, a URL, and a damaged file.
    ImportError
        Without the extra ``table``.

    Notes
    -----
    Only the columns that are named are read from the disk, and of the objects those groups of
    65,536 in which some may meet the conditions: labels and bounding boxes are almost in order, so
    that a range of them is found at once, in 0.1 s among ten million. All of ten million with 25
    columns take 1.7 GB, and 4.5 GB while they are read.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from blockbuster import tile_process
    >>> image, fn = np.array([[0, 7, 7], [4, 0, 7]]), lambda tile: tile
    >>> options = {"tile_shape": (2, 3), "fn_version": "1", "measure": True}
    >>> path = f"{tempfile.mkdtemp()}/labels.zarr"
    >>> _ = tile_process(image, fn, write_to=path, **options)
    >>> read_objects(path, columns=["label", "area", "centroid"], where=("area", ">", 1))
       label  area  centroid-0  centroid-1
    0      1     3    0.333333    1.666667
    """
    check_extra()
    import pyarrow
    import pyarrow.parquet as parquet

    file = find_table(path, component)
    about = read_about(file)
    schema = parquet.read_schema(file)
    chosen, rows = _resolve_columns(columns, schema.names), _resolve_where(where, schema)
    try:
        # Folders that the file lies in are no columns, whatever their names.
        found = parquet.read_table(
            file, columns=chosen, filters=rows, partitioning=None, page_checksum_verification=True
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged and cannot be read: {error}.") from error
    if as_arrow:
        return found.replace_schema_metadata({"blockbuster": json.dumps(about)})
    frame = found.to_pandas()
    frame.attrs["blockbuster"] = about
    return frame


def find_table(path: Path, component: str) -> str:
    """Return the path of the table of labels in a store; FileNotFoundError where there is none."""
    folder = find_labels(path, component, OBJECTS, "tables of objects")
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{folder} does not exist; give the path and the component of labels, as write_to and "
            "output_component of tile_process."
        )
    file = os.path.join(folder, OBJECTS)
    if not os.path.isfile(file):
        raise FileNotFoundError(
            f"{folder} has no table of objects: the labels were not measured; "
            f"measure_labels({os.fspath(path)!r}, component={component!r}) does so now."
        )
    return file


def _resolve_columns(columns: Any, names: list[str]) -> list[str] | None:
    """Return the columns that some names stand for, each once."""
    if columns is None:
        return None
    asked = [columns] if isinstance(columns, str) else columns
    if not isinstance(asked, Sequence) or not all(isinstance(name, str) for name in asked):
        raise TypeError(f"columns is {columns!r}; it is a name, or a list of names.")
    found: dict[str, None] = {}
    for name in asked:
        own = [name] if name in names else [other for other in names if other.startswith(f"{name}-")]
        if not own:
            raise ValueError(_no_such_column("columns", name, names))
        found |= dict.fromkeys(own)
    return list(found)


def _resolve_where(where: Any, schema: pyarrow.Schema) -> Any:
    """Return the expression of pyarrow that conditions come to, which suits the columns."""
    import pyarrow.compute

    is_whole = where is None or isinstance(where, pyarrow.compute.Expression)
    rows = where if is_whole else _as_expression(where, schema.names)
    if rows is not None:
        try:
            schema.empty_table().filter(rows)
        except (pyarrow.ArrowException, TypeError) as error:
            raise TypeError(f"where is {where!r}; it does not suit the columns ({error}).") from error
    return rows


def _as_expression(where: Any, names: list[str]) -> Any:
    import pyarrow.parquet as parquet

    conditions = [where] if isinstance(where, tuple) else where
    if not isinstance(conditions, list):
        raise TypeError(f"where is {where!r}; {WHERE_RULE}.")
    for condition in conditions:
        if not isinstance(condition, tuple) or len(condition) != 3:
            raise TypeError(f"where has {condition!r}; {WHERE_RULE}.")
        name, operator, _ = condition
        if name not in names:
            raise ValueError(_no_such_column("where", name, names))
        if operator not in OPERATORS:
            raise ValueError(f"where has the operator {operator!r}; operators are {', '.join(OPERATORS)}.")
    return parquet.filters_to_expression(conditions) if conditions else None


def _no_such_column(argument: str, name: Any, names: list[str]) -> str:
    return f"{argument} names {name!r}, which the table does not have; it has {', '.join(names)}."
