"""Measurements of objects that somebody has in a table, joined to outlines by label."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

LABEL = "label"
ROWS_PER_GROUP = 2**16
ACCEPTED = "a pandas DataFrame, a pyarrow Table, or the path of a Parquet file"


@dataclass(frozen=True)
class Measurements:
    """A Parquet file with a row for each label.

    Parameters
    ----------
    path : str
        The file.
    names : tuple of str
        Columns that are measurements.
    """

    path: str
    names: tuple[str, ...]

    def read(self, labels: np.ndarray) -> dict[str, np.ma.MaskedArray]:
        """Return the measurements of some labels, sorted; masked where the table has none.

        Raises
        ------
        ValueError
            If the table has two rows for a label.
        """
        import pyarrow.parquet as pq

        low, high = (int(labels[0]), int(labels[-1])) if len(labels) else (0, 0)
        rows = pq.read_table(
            self.path,
            columns=[LABEL, *self.names],
            filters=[(LABEL, ">=", low), (LABEL, "<=", high)],
            use_threads=False,
        ).sort_by(LABEL)
        found = rows[LABEL].to_numpy()
        twice = found[1:][found[1:] == found[:-1]]
        if len(twice):
            raise ValueError(
                f"measurements: label {twice[0]} has two rows; give one for each object, e.g. "
                f"table.drop_duplicates({LABEL!r})."
            )
        places = np.searchsorted(found, labels)
        is_missing = places == len(found)
        if len(found):
            places[is_missing] = 0
            is_missing |= found[places] != labels
        return {name: _take(rows[name], places, is_missing) for name in self.names}


def _take(column: Any, places: np.ndarray, is_missing: np.ndarray) -> np.ma.MaskedArray:
    """Return the values of some rows of a column; masked where they are missing or null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type.to_pandas_dtype()
    if not len(column):
        return np.ma.MaskedArray(np.zeros(len(places), kind), True)
    is_null = column.is_null().to_numpy()[places]
    filled = pc.fill_null(column, pa.scalar(0).cast(column.type)).to_numpy()
    return np.ma.MaskedArray(filled[places], is_missing | is_null)


def check_measurements(measurements: Any, taken: Sequence[str]) -> tuple[str | pa.Table, tuple[str, ...]]:
    """Check a table before work.

    Parameters
    ----------
    measurements : pandas.DataFrame, pyarrow.Table or path
        Has a column ``label``, and numbers.
    taken : sequence of str
        Names that no measurement can have.

    Returns
    -------
    (str or pyarrow.Table, tuple of str)
        The path or the table, and its columns of measurements.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(measurements, str | os.PathLike):
        path = os.path.abspath(os.path.expanduser(os.fspath(measurements)))
        if not os.path.isfile(path):
            raise FileNotFoundError(f"measurements: {path} is not a file; give {ACCEPTED}.")
        try:
            found: Any = path, pq.read_schema(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"measurements: {path} is not a Parquet file ({error}).") from error
    else:
        table = _to_arrow(measurements)
        found = table, table.schema
    schema = found[1]
    if LABEL not in schema.names:
        raise ValueError(
            f"measurements have columns {', '.join(map(repr, schema.names))}; one of them must be {LABEL!r}, "
            "the id of each object."
        )
    if not pa.types.is_integer(schema.field(LABEL).type):
        raise TypeError(f"measurements: {LABEL!r} holds {schema.field(LABEL).type}; labels are integers.")
    names = tuple(name for name in schema.names if name != LABEL and not name.startswith("__index_level_"))
    for name in names:
        kind = schema.field(name).type
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if not is_number or name in taken:
            fault = (
                f"has a name that the file needs for itself ({', '.join(taken)})"
                if is_number
                else f"holds {kind}"
            )
            raise ValueError(f"measurements: {name!r} {fault}; give numbers, and leave other columns out.")
    return found[0], names


def _to_arrow(measurements: Any) -> Any:
    import pyarrow as pa

    if isinstance(measurements, pa.Table):
        return measurements
    if hasattr(measurements, "index") and hasattr(measurements, "columns"):
        is_index = measurements.index.name == LABEL and LABEL not in measurements.columns
        frame = measurements.reset_index() if is_index else measurements
        return pa.Table.from_pandas(frame, preserve_index=False)
    raise TypeError(f"measurements is of type {type(measurements).__name__}; accepted are {ACCEPTED}.")


def open_measurements(checked: tuple[str | Any, tuple[str, ...]], folder: str) -> Measurements:
    """Return measurements that tasks can read: a table in memory is written to a file for them."""
    import pyarrow.parquet as pq

    table, names = checked
    if isinstance(table, str):
        return Measurements(table, names)
    path = os.path.join(folder, "measurements.parquet")
    pq.write_table(table.select([LABEL, *names]).sort_by(LABEL), path, row_group_size=ROWS_PER_GROUP)
    return Measurements(path, names)
