"""Outlines as a GeoParquet 1.1 file, which geopandas and SpatialData open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from blockbuster.kernels.geometries import write_binary
from blockbuster.objects.outlines import Outlines
from blockbuster.objects.positions import Line, Positions

if TYPE_CHECKING:
    import pyarrow as pa

# A row group ends with whichever comes first.
MAX_ROWS, MAX_GEOMETRY_BYTES = 2**14, 2**26
BOX = ("xmin", "ymin", "xmax", "ymax")
TAKEN = ("geometry", "bbox", "label")


def encode(
    outlines: Outlines, columns: dict[str, np.ma.MaskedArray], positions: Positions, file: IO[bytes]
) -> None:
    """Write a table of some objects in Arrow's own format; arguments as for GeoJSON."""
    import pyarrow as pa

    n = len(outlines.labels)
    boxes = [_places(line, outlines.boxes[:, k]) for k, line in enumerate((positions.x, positions.y) * 2)]
    # Along an axis that the metadata turn around.
    ordered = [f(boxes[k], boxes[k + 2]) for f in (np.minimum, np.maximum) for k in range(2)]
    data, ends = _binary(outlines, positions)
    offsets = pa.py_buffer(np.append(0, ends).astype(np.int64))
    geometry = pa.LargeBinaryArray.from_buffers(pa.large_binary(), n, [None, offsets, pa.py_buffer(data)])
    arrays: dict[str, Any] = {"label": pa.array(outlines.labels)}
    for name, values in columns.items():
        arrays[name] = pa.array(values.data, mask=np.ma.getmaskarray(values))
    arrays["bbox"] = pa.StructArray.from_arrays([pa.array(box) for box in ordered], names=list(BOX))
    arrays["geometry"] = geometry
    table = pa.table(arrays)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def finish(parts: Sequence[str], file: IO[bytes], summary: dict[str, Any]) -> None:
    """Write a whole file from tables of some objects each, in order.

    Parameters
    ----------
    parts : sequence of str
        Their files.
    file : file
        Takes the bytes.
    summary : dict
        What the metadata say of all objects: ``"bbox"``, ``"geometry_types"``, ``"unit"``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.memory_map(parts[0]) as source:
        schema = pa.ipc.open_file(source).schema
    place = schema.get_field_index("geometry")
    schema = schema.set(place, pa.field("geometry", pa.binary()))
    schema = schema.with_metadata({"geo": json.dumps(_describe(summary)), "blockbuster": json.dumps(summary)})
    options: Any = {
        "compression": "zstd",
        "use_dictionary": False,
        "write_statistics": _plain_paths(schema.names),
    }
    with pq.ParquetWriter(file, schema, **options) as writer:
        for table in _row_groups(_read(parts)):
            writer.write_table(table.cast(schema).combine_chunks(), row_group_size=MAX_ROWS)


def _plain_paths(names: Sequence[str]) -> list[str]:
    """Return the paths of columns but the geometry; the box has four."""
    return [*(name for name in names if name not in ("bbox", "geometry")), *(f"bbox.{name}" for name in BOX)]


def _describe(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that make a Parquet file a GeoParquet file."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": summary["geometry_types"],
        # A plane of its own, not on Earth.
        "crs": None,
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in BOX}},
    }
    if summary["bbox"]:
        column["bbox"] = summary["bbox"]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _read(parts: Sequence[str]) -> Iterator[pa.Table]:
    import pyarrow as pa

    for part in parts:
        with pa.memory_map(part) as source:
            yield pa.ipc.open_file(source).read_all()


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cut tables into row groups, which do not depend on how the rows were spread over them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pending: list[pa.Table] = []
    rows = n_bytes = 0
    for table in tables:
        totals = np.append(0, np.cumsum(pc.binary_length(table["geometry"]).to_numpy()))
        begin = 0
        while begin < len(table):
            full = int(np.searchsorted(totals, totals[begin] + MAX_GEOMETRY_BYTES - n_bytes))
            end = min(begin + MAX_ROWS - rows, full)
            pending.append(table[begin:end])
            rows += len(pending[-1])
            n_bytes += int(totals[min(end, len(table))] - totals[begin])
            if end <= len(table):
                yield pa.concat_tables(pending)
                pending, rows, n_bytes = [], 0, 0
            begin = end
    if pending:
        yield pa.concat_tables(pending)


def _places(line: Line, corners: np.ndarray) -> np.ndarray:
    if not len(corners):
        return np.empty(0)
    first, last = int(corners.min()), int(corners.max())
    places = line.positions(first, last).astype(np.float64)
    return np.asarray(places[corners - first])


def _binary(outlines: Outlines, positions: Positions) -> tuple[np.ndarray, np.ndarray]:
    """Write all geometries as well-known binary, and where each ends."""
    n = len(outlines.labels)
    ends = np.empty(n, np.int64)
    if not n:
        return np.empty(0, np.uint8), ends
    low, high = outlines.boxes[:, :2].min(axis=0), outlines.boxes[:, 2:].max(axis=0)
    xs, ys = (_bytes(line, int(low[k]), int(high[k])) for k, line in enumerate((positions.x, positions.y)))
    n_rings, n_polygons = len(outlines.starts) - 1, len(outlines.rings) - 1
    out = np.empty(16 * len(outlines.vertices) + 20 * n_rings + 9 * (n_polygons + n), np.uint8)
    structure = (outlines.polygons, outlines.rings, outlines.starts, outlines.vertices)
    write_binary(structure, xs, ys, out, ends)
    return out[: ends[-1]], ends


def _bytes(line: Line, first: int, last: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the bytes of each position, as kernels look them up."""
    places = line.positions(first, last).astype("<f8")
    return places.view(np.uint8), np.arange(len(places) + 1) * 8, first
