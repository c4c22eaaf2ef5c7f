"""Labels as runs along the last axis, and back, voxel by voxel."""

import numpy as np


def runs_of(labels, cuts=(), cut_rows=()):
    """Rows and runs of a plane; in `cut_rows`, runs also end at `cuts`."""
    rows, runs = [0], []
    for number, row in enumerate(labels):
        ends = set(cuts) if len(cut_rows) and cut_rows[number] else set()
        start = 0
        for x in range(1, len(row) + 1):
            if x == len(row) or row[x] != row[start] or x in ends:
                if row[start]:
                    runs.append([start, x, row[start]])
                start = x
        rows.append(len(runs))
    return np.array(rows, np.int64), np.array(runs, np.int32).reshape(-1, 3)


def dense_of(rows, runs, shape):
    """The plane that rows and runs stand for."""
    labels = np.zeros(shape, int)
    for row in range(len(rows) - 1):
        for start, stop, number in runs[rows[row] : rows[row + 1]]:
            labels[row, start:stop] = number
    return labels
