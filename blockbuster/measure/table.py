"""The table of objects as a Parquet file, whose bytes depend on what it holds alone."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from blockbuster.errors import check_installed
from blockbuster.identity.sealed import seal, unseal
from blockbuster.rundir.durable import flush_path, replaced_file
from blockbuster.rundir.failpoints import reach

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
# In the metadata of the file: what it is of, and a CRC-32 of its footer as it is with these digits.
ABOUT = b"blockbuster"
FOOTER, NO_DIGITS = b"blockbuster-footer-crc", b"00000000"
# Between the name and the digits: a type and a length.
GAP = 2
MAGIC, TAIL_BYTES = b"PAR1", 8
# A reader that asks for a part of the objects reads the row groups that may hold some of them.
ROW_GROUP_ROWS = 2**16
Batch = Mapping[str, np.ndarray]


def check_extra() -> None:
    """Raise ImportError where the packages are missing that tables are written and read with."""
    check_installed("table", ("pandas", "pyarrow"))


def write_table(
    path: str | os.PathLike[str],
    columns: Mapping[str, np.dtype[Any]],
    batches: Iterable[Batch],
    *,
    about: Mapping[str, Any],
    n_rows: int = 0,
) -> None:
    """Write a table such that it is complete, and on the disk, or absent.

    Parameters
    ----------
    path : path
        The file, which is replaced if it is there.
    columns : mapping of str to dtype
        Booleans, integers and floats, in the order that they will have. NaN becomes null: unknown.
    batches : iterable of mapping of str to ndarray
        One-dimensional arrays of these dtypes, of one length in each batch. How rows are cut into
        batches does not change a byte.
    about : mapping
        What the table is of, ready for JSON; it is kept with the table.
    n_rows : int
        How many rows there will be, for the message that the disk is full.

    Notes
    -----
    With 25 columns about 4 million rows a second and 120 bytes a row, in 70 MiB of memory. Values
    are encoded such that they cost least time: differences of integers, and floats with their first
    bytes side by side, then Snappy. Dictionaries would take five times as long, and are larger.
    Every page has a checksum, and so has the footer, which a reader of ours looks at first: of what
    is damaged in it pyarrow notices a part.
    """
    import pyarrow.parquet as parquet

    schema = _schema(columns)
    described = json.dumps(seal({"format": FORMAT, **about}))
    floats = [name for name, dtype in columns.items() if dtype.kind == "f"]
    integers = [name for name, dtype in columns.items() if dtype.kind in "iu"]
    encodings = dict.fromkeys(integers, "DELTA_BINARY_PACKED") | dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
    n_bytes = n_rows * sum(dtype.itemsize for dtype in columns.values())
    with replaced_file(path, n_bytes) as file:
        with parquet.ParquetWriter(
            file,
            schema,
            compression="snappy",
            use_dictionary=False,
            column_encoding=encodings,
            write_page_checksum=True,
            # It would repeat the schema as Arrow has it, which the types of Parquet suffice for.
            store_schema=False,
        ) as writer:
            for group in _row_groups(columns, batches):
                writer.write_table(_as_table(group, schema), row_group_size=ROW_GROUP_ROWS)
                reach("rows written")
            writer.add_key_value_metadata({ABOUT: described, FOOTER: NO_DIGITS})
        _seal_footer(file)
        file.flush()
        os.fsync(file.fileno())
    flush_path(os.path.dirname(os.path.abspath(path)))


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a table is of.

    Raises
    ------
    ValueError
        If the file is damaged, is no table of objects, or is one of a later version.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with open(path, "rb") as file:
            is_ours = _check_footer(file)
        about = unseal(parquet.read_metadata(path).metadata[ABOUT]) if is_ours else None
    except (pyarrow.ArrowException, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} is damaged and cannot be read: {error}.") from error
    if about is None:
        raise ValueError(f"{os.fspath(path)} is not a table of objects that blockbuster wrote.")
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{os.fspath(path)} is a table of format {about.get('format')}, and this version of blockbuster "
            f"reads format {FORMAT}; install the version that wrote it, or measure again."
        )
    return about


def open_table(
    path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> tuple[dict[str, np.dtype[Any]], dict[str, Any], Iterator[dict[str, np.ndarray]]]:
    """Open a table that `write_table` wrote, to write it again with changes.

    Parameters
    ----------
    path : path
        The file.
    names : sequence of str, optional
        Which columns; ``None``: all.

    Returns
    -------
    columns : dict of str to dtype
        As they were given; floats that are unknown are NaN.
    about : dict
        What the table is of.
    batches : iterator of dict of str to ndarray
        Its rows, some at a time.
    """
    import pyarrow.parquet as parquet

    about = read_about(path)
    about.pop("format")
    file = parquet.ParquetFile(path, page_checksum_verification=True)
    fields = [field for field in file.schema_arrow if names is None or field.name in names]
    columns = {field.name: np.dtype(field.type.to_pandas_dtype()) for field in fields}
    batches = (
        {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}
        for batch in file.iter_batches(ROW_GROUP_ROWS, columns=list(columns))
    )
    return columns, about, batches


def _seal_footer(file: IO[bytes]) -> None:
    """Put the checksum of a footer into it, at the end of a file that is complete but for that."""
    file.flush()
    with open(file.name, "rb") as opened:
        footer = _read_footer(opened)
    begin = footer.index(FOOTER) + len(FOOTER) + GAP
    file.seek(begin - len(footer) - TAIL_BYTES, os.SEEK_END)
    file.write(f"{zlib.crc32(footer):08x}".encode())


def _check_footer(file: IO[bytes]) -> bool:
    """Return whether a file has a footer of ours; raise ValueError if that is damaged."""
    footer = _read_footer(file)
    if FOOTER not in footer:
        return False
    begin = footer.index(FOOTER) + len(FOOTER) + GAP
    end = begin + len(NO_DIGITS)
    if footer[begin:end] != f"{zlib.crc32(footer[:begin] + NO_DIGITS + footer[end:]):08x}".encode():
        raise ValueError("its footer is not as it was written")
    return True


def _read_footer(file: IO[bytes]) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read()
    length = int.from_bytes(tail[: -len(MAGIC)], "little")
    if not tail.endswith(MAGIC) or length + TAIL_BYTES > size:
        raise ValueError("it does not end like a Parquet file")
    file.seek(size - TAIL_BYTES - length)
    return file.read(length)


def _schema(columns: Mapping[str, np.dtype[Any]]) -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        pyarrow.field(name, pyarrow.from_numpy_dtype(dtype), nullable=dtype.kind == "f")
        for name, dtype in columns.items()
    )


def _as_table(group: Batch, schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    arrays = [pyarrow.array(values, from_pandas=True) for values in group.values()]
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def _row_groups(columns: Mapping[str, np.dtype[Any]], batches: Iterable[Batch]) -> Iterator[Batch]:
    """Cut batches anew into groups of as many rows, of which the last may have fewer.

    A group is valid until the next one is asked for.
    """
    group = {name: np.empty(ROW_GROUP_ROWS, dtype) for name, dtype in columns.items()}
    n_filled = 0
    for batch in batches:
        (n,) = {len(batch[name]) for name in columns}
        begin = 0
        while begin < n:
            n_taken = min(n - begin, ROW_GROUP_ROWS - n_filled)
            for name, values in group.items():
                part = batch[name][begin : begin + n_taken]
                np.copyto(values[n_filled : n_filled + n_taken], part, casting="no")
            begin, n_filled = begin + n_taken, n_filled + n_taken
            if n_filled == ROW_GROUP_ROWS:
                yield group
                n_filled = 0
    if n_filled:
        yield {name: values[:n_filled] for name, values in group.items()}
