"""Time a tool of this folder in its own environment: ``python clock.py TOOL JOB``, JOB an object of JSON.

Nothing but the tool's package, what that brings, and zarr need be installed. The tool is called once on a small
image before the call that counts, so that imports and compilation are done.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path


def peak_bytes():
    """Give the largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def main():
    """Print seconds, the peak of the resident memory in bytes, and the path of the labels."""
    name, text = sys.argv[1:]
    job = json.loads(text)
    tool = importlib.import_module(name)
    first, second = ({**job, "image": image, "out": job["out"] + suffix} for image, suffix in job["calls"])
    tool.run(tool.prepared(first) if hasattr(tool, "prepared") else first)
    second = tool.prepared(second) if hasattr(tool, "prepared") else second
    os.sync()
    start = time.perf_counter()
    labels = tool.run(second)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(), "labels": labels}))


if __name__ == "__main__":
    main()
