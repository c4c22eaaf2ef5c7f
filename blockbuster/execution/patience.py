"""Keep a dask scheduler from taking a worker for lost, and killing it, because fn holds the GIL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from distributed import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from blockbuster.compat import vouch_for_workers
from blockbuster.errors import warn_user

__all__ = ["patient_scheduler"]

LOOKS_PER_TTL = 4

NOT_PATIENT = (
    "the scheduler of the dask cluster could not be told to wait for workers whose fn holds the GIL ({error}); "
    "it restarts a worker that is silent for {ttl} (the setting distributed.scheduler.worker-ttl). If single "
    "tiles take that long, set it to a longer time, or null, before the cluster starts."
)


class Patience(SchedulerPlugin):
    """See workers that run tasks of a client as alive as long as their connection stands.

    A worker whose fn holds the GIL sends no heartbeat, and after ``worker-ttl`` the scheduler restarts it: what
    it computed is lost, again and again. Whether the process lives, the operating system knows better: the
    connection of a dead process, or of a host that is gone, ends.

    Parameters
    ----------
    client : str
        Id of the client; with it the plugin ends.
    prefix : str
        What the keys of the tasks begin with.
    """

    def __init__(self, client: str, prefix: str) -> None:
        self.client = client
        self.prefix = prefix
        self.name = f"{prefix}-patience"
        self._looks: PeriodicCallback | None = None
        self._scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        """Look at the workers several times in the period after which they would be taken for lost."""
        self._scheduler = scheduler
        if scheduler.worker_ttl:
            self._looks = PeriodicCallback(self._look, 1000 * scheduler.worker_ttl / LOOKS_PER_TTL)
            self._looks.start()

    def _look(self) -> None:
        vouch_for_workers(self._scheduler, self.prefix)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """End with the client, even one that was killed."""
        if client == self.client:
            self._stop()
            scheduler.remove_plugin(self.name)

    async def close(self) -> None:
        """End with the scheduler, or when the run is over."""
        self._stop()

    def _stop(self) -> None:
        if self._looks is not None:
            self._looks.stop()


@contextlib.contextmanager
def patient_scheduler(client: Any, prefix: str) -> Iterator[None]:
    """Have the scheduler of a client wait for workers that run tasks whose keys begin so."""
    plugin = Patience(client.id, prefix)
    try:
        client.register_plugin(plugin)
    except Exception as error:
        # A scheduler that does not unpickle, or has no blockbuster.
        from dask import config

        ttl = config.get("distributed.scheduler.worker-ttl", None)
        if ttl:
            warn_user(NOT_PATIENT.format(error=f"{type(error).__name__}: {error}", ttl=ttl))
        yield
        return
    try:
        yield
    finally:
        # The connection may be what failed.
        with contextlib.suppress(Exception):
            client.unregister_scheduler_plugin(plugin.name)
