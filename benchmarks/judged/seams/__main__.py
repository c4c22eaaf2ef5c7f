"""``python -m benchmarks.judged.seams``: see `benchmarks.judged.seams.comparison`."""

from benchmarks.judged.seams.comparison import main

main()
