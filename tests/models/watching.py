"""Count in any process how often a file is opened, by Python's own audit events."""

import sys

opened = {}


def watch(path):
    """Begin to count a file."""
    if not opened:
        sys.addaudithook(_count)
    opened[str(path)] = 0


def _count(event, arguments):
    if event == "open" and str(arguments[0]) in opened:
        opened[str(arguments[0])] += 1


def count(path):
    """Say how often it was opened since."""
    return opened.get(str(path), 0)
