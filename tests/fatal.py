"""Functions that end the process they run in, or hold its GIL; imported by name in worker processes."""

import math
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

MARK = 77
# A match that fails only after some 2**n steps, without ever letting go of the GIL.
SLOW_PATTERN = re.compile(r"(a+)+$")


def components(tile):
    return ndimage.label(tile)[0]


def has_mark(tile):
    return bool((tile == MARK).any())


@dataclass(frozen=True)
class Counting:
    """Connected components; every call leaves a file in a folder."""

    folder: Path
    seconds: float = 0.0

    def __call__(self, tile):
        self.count("call")
        time.sleep(self.seconds)
        return components(tile)

    def count(self, what):
        """Leave one more file, whoever else does so now."""
        number = 0
        while True:
            try:
                os.close(os.open(self.folder / f"{what}-{number}", os.O_CREAT | os.O_EXCL))
                return number
            except FileExistsError:
                number += 1

    @property
    def calls(self):
        return len(list(self.folder.glob("call-*")))

    def deaths(self):
        return len(list(self.folder.glob("death-*")))


@dataclass(frozen=True)
class Gated(Counting):
    """Connected components; from some calls on, each waits until what shall happen before it has happened."""

    gates: tuple[int, ...] = ()

    def __call__(self, tile):
        number = self.count("call")
        for gate in self.gates:
            if number >= gate:
                wait_until((self.folder / f"open-{gate}").exists)
        return components(tile)

    def at_gate(self, gate, act):
        """Do something once calls wait at a gate, and open it."""
        wait_until(lambda: self.calls > gate)
        done = act()
        (self.folder / f"open-{gate}").touch()
        return done


def wait_until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "waited for two minutes"
        time.sleep(0.01)


@dataclass(frozen=True)
class Killing(Counting):
    """Connected components; the tile with the mark kills its process so many times."""

    times: int = 10**6

    def __call__(self, tile):
        self.count("call")
        if has_mark(tile) and self.count("death") < self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return components(tile)


@dataclass(frozen=True)
class HoldingTheGil(Counting):
    """Connected components, after so many seconds in which no other thread of the process runs."""

    def __call__(self, tile):
        self.count("call")
        hold_the_gil(self.seconds)
        return components(tile)


def hold_the_gil(seconds):
    """Stay so long, or up to twice as long, inside one call of C code that does not let go of the GIL."""
    letters, taken = 16, 0.0
    while taken < 0.05:
        letters += 1
        started = time.monotonic()
        SLOW_PATTERN.match("a" * letters + "b")
        taken = time.monotonic() - started
    # Each letter doubles the time.
    letters += math.ceil(math.log2(seconds / taken))
    SLOW_PATTERN.match("a" * letters + "b")


def marked(shape, tile, seed=0):
    """A mask, the mark in the middle of a tile of it."""
    image = (np.random.default_rng(seed).random(shape) < 0.5).astype("uint8")
    image[tuple(part.start + 2 for part in tile)] = MARK
    return image
