"""Outlines as a GeoJSON file that QuPath imports as detections with measurements."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from blockbuster.kernels.geometries import write_coordinates
from blockbuster.objects.outlines import Outlines
from blockbuster.objects.positions import Line, Positions

BEGIN, BETWEEN, END = b'{"type":"FeatureCollection","features":[\n', b",\n", b"\n]}\n"
COPY_BYTES = 2**24
# Two odd numbers, and those of a mixing function in which every bit changes half of all others.
SEEDS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
# Version 8 of RFC 9562, made by a rule of one's own; its variant.
VERSION, VARIANT = 0x80, 0x80


def encode(
    outlines: Outlines, columns: dict[str, np.ma.MaskedArray], positions: Positions, file: IO[bytes]
) -> None:
    """Write the features of some objects, one to a line.

    Parameters
    ----------
    outlines : Outlines
        The objects.
    columns : dict
        Name and values of each measurement; what is masked or no finite number is left out.
    positions : Positions
        Where corners of voxels are.
    file : file
        Takes the bytes.
    """
    if not len(outlines.labels):
        return
    text, ends = _coordinates(outlines, positions)
    starts = [0, *ends.tolist()]
    kinds = np.where(np.diff(outlines.polygons) > 1, "MultiPolygon", "Polygon").tolist()
    rows = zip(_identities(outlines), kinds, starts, starts[1:], _tails(outlines, columns), strict=False)
    lines = (
        b'{"type":"Feature","id":"%b","geometry":{"type":"%b","coordinates":%b},%b'
        % (identity, kind.encode(), text[start:end], tail)
        for identity, kind, start, end, tail in rows
    )
    file.write(BETWEEN.join(lines))


def finish(parts: Sequence[str], file: IO[bytes]) -> None:
    """Write a whole file from the features of some objects each, in order."""
    file.write(BEGIN)
    between = b""
    for part in parts:
        with Path(part).open("rb") as source:
            file.write(between)
            shutil.copyfileobj(source, file, COPY_BYTES)
            between = BETWEEN if source.tell() else between
    file.write(END)


def _coordinates(outlines: Outlines, positions: Positions) -> tuple[bytes, np.ndarray]:
    """Write all coordinates, and where those of each object end."""
    low, high = outlines.boxes[:, :2].min(axis=0), outlines.boxes[:, 2:].max(axis=0)
    xs, longest_x = _texts(positions.x, int(low[0]), int(high[0]))
    ys, longest_y = _texts(positions.y, int(low[1]), int(high[1]))
    n_rings = len(outlines.starts) - 1
    size = (len(outlines.vertices) + n_rings) * (longest_x + longest_y + 4)
    out = np.empty(size + 4 * n_rings + 4 * len(outlines.labels) + 4, np.uint8)
    ends = np.empty(len(outlines.labels), np.int64)
    structure = (outlines.polygons, outlines.rings, outlines.starts, outlines.vertices)
    write_coordinates(structure, xs, ys, out, ends)
    return out[: ends[-1]].tobytes(), ends


def _texts(line: Line, first: int, last: int) -> tuple[tuple[np.ndarray, np.ndarray, int], int]:
    """Return the text of each position, as kernels look it up, and the length of the longest."""
    texts = list(map(repr, line.positions(first, last).tolist()))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.append(0, np.cumsum(lengths))
    return (np.frombuffer("".join(texts).encode(), np.uint8), ends, first), int(lengths.max())


def _identities(outlines: Outlines) -> list[bytes]:
    """Return a UUID for each object, which its label, area and place decide."""
    with np.errstate(over="ignore"):
        mixed: np.ndarray = outlines.labels.astype(np.uint64)
        halves = []
        for seed, other in zip(SEEDS, (outlines.areas, outlines.places), strict=True):
            mixed = _mix(mixed + np.uint64(seed)) ^ other.astype(np.uint64)
            halves.append(_mix(mixed))
    raw = np.stack(halves, axis=1).astype(">u8").view(np.uint8).reshape(-1, 16)
    raw[:, 6] = raw[:, 6] & 0x0F | VERSION
    raw[:, 8] = raw[:, 8] & 0x3F | VARIANT
    digits = raw.tobytes().hex()
    cut = (digits[i : i + 32] for i in range(0, len(digits), 32))
    return [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}".encode() for d in cut]


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(FACTORS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(FACTORS[1])
    return np.asarray(values ^ (values >> np.uint64(31)))


def _tails(outlines: Outlines, columns: dict[str, np.ma.MaskedArray]) -> Iterator[bytes]:
    """Yield what follows the geometry of each object."""
    form = '"properties":{{"objectType":"detection","name":"{0}","measurements":{{"label":{0}{1}}}}}}}'
    texts = (_measurements(name, values) for name, values in columns.items())
    for label, *measured in zip(outlines.labels.tolist(), *texts, strict=True):
        yield form.format(label, "".join(measured)).encode()


def _measurements(name: str, values: np.ma.MaskedArray) -> Iterable[str]:
    """Yield name and value of a measurement for each object, empty where there is none."""
    key = f",{json.dumps(name)}:"
    data: np.ndarray = np.asarray(values.data)
    is_left_out: np.ndarray = np.ma.getmaskarray(values) | ~np.isfinite(data)
    if data.dtype.kind == "b":
        data = data.astype(np.uint8)
    # float32 as short as it can be.
    numbers: Iterable[Any] = (
        data.astype(str) if data.dtype.itemsize < 8 and data.dtype.kind == "f" else data.tolist()
    )
    if not is_left_out.any():
        return (f"{key}{number}" for number in numbers)
    pairs = zip(numbers, is_left_out.tolist(), strict=True)
    return ("" if left_out else f"{key}{number}" for number, left_out in pairs)
