"""What a run of any size will take: ``python -m benchmarks.planning``.

A model of few numbers, each measured by `benchmarks.scaling` and `benchmarks.engine` on the machine that
docs/benchmarks.md names. ``--check`` compares it with measurements of other sizes than those it was made from.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.table import format_table

__all__ = ["Costs", "Plan", "main"]


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Parameters
    ----------
    voxel_seconds : float
        Core seconds for each voxel, fn apart: read, check, number, write, remap.
    task_seconds : float
        Seconds of the driver and its scheduler for each task, however many workers there are.
    tile_bytes, label_bytes : float
        Driver memory for each tile, and for each label of a tile (a third of them at seams).
    base_bytes : float
        Driver memory before the run.
    task_messages : float
        Messages that the scheduler gets or sends for each task.
    """

    voxel_seconds: float = 26e-9
    task_seconds: float = 1.5e-3
    tile_bytes: float = 100.0
    label_bytes: float = 40.0
    base_bytes: float = 235e6
    task_messages: float = 6.0


@dataclass(frozen=True)
class Plan:
    """A run that is planned.

    Parameters
    ----------
    n_bytes : float
        Size of the image, uint16.
    n_workers : int
        Cores of the cluster.
    fn_seconds : float
        Core seconds of fn for each voxel.
    disk : float
        Bytes per second that the shared file system gives to all workers together.
    tile_voxels, task_voxels, object_voxels : float
        Voxels of a tile, of a task, and for each label.
    read_share, label_share : float
        Bytes on disk for each byte of the image, and for each voxel of the staged and the final labels together.
    """

    n_bytes: float
    n_workers: int
    fn_seconds: float = 1e-6
    disk: float = 5e9
    tile_voxels: float = 256**3
    task_voxels: float = 256**3
    object_voxels: float = 10_000.0
    read_share: float = 0.6
    label_share: float = 0.5

    @property
    def n_voxels(self) -> float:
        """Voxels of the image."""
        return self.n_bytes / 2

    @property
    def n_tasks(self) -> float:
        """Tasks of the three phases: stage, seams, write."""
        return 3 * self.n_voxels / self.task_voxels

    def seconds(self, costs: Costs) -> dict[str, float]:
        """Seconds that each resource is busy; the longest decides."""
        traffic = self.n_bytes * self.read_share + 1.5 * self.n_voxels * self.label_share
        return {
            "cores": self.n_voxels * (self.fn_seconds + costs.voxel_seconds) / self.n_workers,
            "disk": traffic / self.disk,
            "driver": self.n_tasks * costs.task_seconds,
        }

    def driver_bytes(self, costs: Costs) -> float:
        """Memory of the driver."""
        n_tiles, n_labels = self.n_voxels / self.tile_voxels, self.n_voxels / self.object_voxels
        return costs.base_bytes + n_tiles * costs.tile_bytes + n_labels * costs.label_bytes

    def row(self, costs: Costs, name: str) -> list[str]:
        """Give the row of the table."""
        seconds = self.seconds(costs)
        first = max(seconds, key=lambda resource: seconds[resource])
        memory = self.driver_bytes(costs)
        if memory > MOST_DRIVER_BYTES:
            first = "driver's memory"
        return [
            name,
            f"{self.n_workers:,}",
            f"{self.n_tasks:.2g}",
            *(f"{seconds[resource] / 3600:.2g}" for resource in ("cores", "disk", "driver")),
            f"{self.n_voxels * self.label_share / 1e12:.2g}",
            f"{memory / 1e9:.2g}",
            f"{self.n_tasks * costs.task_messages:.2g}",
            first,
        ]


MOST_DRIVER_BYTES = 256e9
TITLES = [
    "image",
    "workers",
    "tasks",
    "cores h",
    "disk h",
    "driver h",
    "labels TB",
    "driver GB",
    "messages",
    "first bottleneck",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fn", type=float, default=1.0, help="core microseconds of fn for each voxel")
    parser.add_argument("--disk", type=float, default=5.0, help="GB per second of the shared file system")
    given = parser.parse_args(arguments)
    rows = [
        Plan(n_bytes, n_workers, given.fn * 1e-6, given.disk * 1e9).row(Costs(), name)
        for name, n_bytes in (("10 TB", 1e13), ("1 PB", 1e15))
        for n_workers in (100, 1000)
    ]
    print(format_table(TITLES, rows))


if __name__ == "__main__":
    main()
