"""``python -m benchmarks.judged.seams``: see `benchmarks.judged.seams.comparison`."""

from benchmarks.judged.seams.comparison import main

# asv imports every module below benchmarks.
if __name__ == "__main__":
    main()
