"""The table of objects as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def check_extra() -> None:
    """Refuse to begin without pyarrow."""


def write_table(
    path: str, columns: Mapping[str, np.dtype], batches: Iterator[dict[str, np.ndarray]], *, about: dict[str, Any]
) -> None:
    """Write a table as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = list(batches)
    table = {
        name: np.concatenate([np.zeros(0, dtype), *(b[name] for b in found)]) for name, dtype in columns.items()
    }
    pq.write_table(pa.table(table), path)
