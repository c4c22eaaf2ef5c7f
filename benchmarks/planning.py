"""What a run of any size will take: ``python -m benchmarks.planning``.

A model of few numbers, each measured by `benchmarks.scaling` and `benchmarks.engine` on the machine that
docs/benchmarks.md names. It is compared with measured runs. Those of a million tiles and of 2,000 tasks are also
what its costs of a tile and of a task come from; the others are not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.table import format_table

__all__ = ["Costs", "Measured", "Plan", "main"]


@dataclass(frozen=True)
class Costs:
    """What one unit of each kind takes.

    Parameters
    ----------
    voxel_seconds, tile_seconds, task_seconds : float
        Core seconds of workers for each voxel, for each tile, and for each task of the three phases, fn apart.
    driver_seconds : float
        Seconds of the driver and its scheduler for each task.
    tile_bytes, label_bytes, base_bytes : float
        Memory of the driver for each tile, for each label of a tile (20 for each that touches a seam, which a
        quarter does; twice that beyond 2**31 labels), and before the run.
    task_messages : float
        Messages that the scheduler gets and sends for each task: 3 sent, 2 from workers, 1.7 from the client.
    """

    voxel_seconds: float = 20e-9
    tile_seconds: float = 0.1e-3
    task_seconds: float = 5.5e-3
    driver_seconds: float = 1.8e-3
    tile_bytes: float = 20.0
    label_bytes: float = 5.0
    base_bytes: float = 235e6
    task_messages: float = 6.7


COSTS = Costs()
PHASES = 3
MAX_DRIVER_BYTES = 256e9


@dataclass(frozen=True)
class Plan:
    """A run.

    Parameters
    ----------
    n_voxels : float
        Of the image, uint16.
    n_workers : int
        Threads of the cluster.
    tile_voxels, task_voxels, object_voxels : float
        Voxels of a tile, of a task, and for each label.
    fn_seconds : float
        Core seconds of fn for each voxel.
    disk : float
        Bytes per second that the shared file system gives to all workers together.
    image_share, label_share : float
        Bytes on disk for each byte of the image, and of staged and of final labels for each voxel.
    """

    n_voxels: float
    n_workers: int
    tile_voxels: float = 256**3
    task_voxels: float = 256**3
    object_voxels: float = 10_000.0
    fn_seconds: float = 1e-6
    disk: float = 5e9
    image_share: float = 0.6
    label_share: float = 0.2

    @property
    def n_tiles(self) -> float:
        """Tiles of the image."""
        return self.n_voxels / self.tile_voxels

    @property
    def n_tasks(self) -> float:
        """Tasks of all phases: stage, seams, write."""
        return PHASES * self.n_voxels / self.task_voxels

    def seconds(self, costs: Costs = COSTS) -> dict[str, float]:
        """How long each resource is busy; the longest decides."""
        work = self.n_voxels * (self.fn_seconds + costs.voxel_seconds)
        work += self.n_tiles * costs.tile_seconds + self.n_tasks * costs.task_seconds
        # Labels are staged, read again, and written.
        traffic = self.n_voxels * (2 * self.image_share + 3 * self.label_share)
        return {
            "workers": work / self.n_workers,
            "disk": traffic / self.disk,
            "driver": self.n_tasks * costs.driver_seconds,
        }

    def driver_bytes(self, costs: Costs = COSTS) -> float:
        """Memory of the driver."""
        n_labels = self.n_voxels / self.object_voxels
        label_bytes = costs.label_bytes * (1 if n_labels < 2**31 else 2)
        return costs.base_bytes + self.n_tiles * costs.tile_bytes + n_labels * label_bytes

    def first_bottleneck(self) -> str:
        """What limits the run."""
        seconds = self.seconds()
        if self.driver_bytes() > MAX_DRIVER_BYTES:
            return "memory of the driver"
        return max(seconds, key=lambda resource: seconds[resource])


@dataclass(frozen=True)
class Measured:
    """A run of two worker processes that was measured; fn takes some 10 ns a voxel."""

    name: str
    plan: Plan
    seconds: float


def plan_rows(fn_seconds: float, disk: float) -> list[list[str]]:
    """Rows of the table of runs that are planned."""
    rows = []
    for name, n_bytes in (("10 TB", 1e13), ("1 PB", 1e15)):
        for n_workers in (100, 1000):
            plan = Plan(n_bytes / 2, n_workers, fn_seconds=fn_seconds, disk=disk)
            hours = {resource: seconds / 3600 for resource, seconds in plan.seconds().items()}
            rows.append(
                [
                    f"{name}, {n_workers:,} workers",
                    f"{plan.n_tasks:,.0f}",
                    *(f"{hours[resource]:,.1f}" for resource in ("workers", "disk", "driver")),
                    f"{2 * plan.n_voxels * plan.label_share / 1e12:,.1f}",
                    f"{plan.driver_bytes() / 1e9:,.1f}",
                    f"{plan.n_tasks * COSTS.task_messages:,.0f}",
                    plan.first_bottleneck(),
                ]
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of runs, and how the model compares with what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fn", type=float, default=1.0, help="core microseconds of fn for each voxel")
    parser.add_argument("--disk", type=float, default=5.0, help="GB per second of the shared file system")
    given = parser.parse_args(arguments)
    titles = [
        "image",
        "tasks",
        "workers h",
        "disk h",
        "driver h",
        "disk TB",
        "driver GB",
        "messages",
        "first limit",
    ]
    print(f"fn takes {given.fn:g} us a voxel, the file system gives {given.disk:g} GB/s:\n")
    print(format_table(titles, plan_rows(given.fn * 1e-6, given.disk * 1e9)))
    print("\nThe model against what was measured on two cores, which the driver shared:\n")
    rows = []
    for run in MEASURED:
        # The driver had no core of its own.
        busy = run.plan.seconds()
        expected = busy["workers"] + busy["driver"] / run.plan.n_workers
        rows.append([run.name, f"{expected:.1f}", f"{run.seconds:.1f}", f"{expected / run.seconds:.2f}"])
    print(format_table(["run", "model s", "measured s", "model / measured"], rows))


# Two cores, a local disk that is no limit; see docs/benchmarks.md.
LOCAL = {"fn_seconds": 10e-9, "disk": 1e12}
MEASURED = [
    Measured("65,536 tiles of 32^2", Plan(2**26, 2, 2**10, 2**23, **LOCAL), 5.40),
    Measured("1,048,576 tiles of 32^2", Plan(2**30, 2, 2**10, 2**24, **LOCAL), 66.39),
    Measured("2,000 tasks of one tile", Plan(2_000 * 2**10, 2, 2**10, 2**10, **LOCAL), 22.28),
    Measured("8192^2, tiles of 256^2", Plan(2**26, 2, 2**16, 2**23, **LOCAL), 1.107),
    Measured("16384^2, tiles of 256^2", Plan(2**28, 2, 2**16, 2**24, **LOCAL), 4.767),
]


if __name__ == "__main__":
    main()
