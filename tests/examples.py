"""How many examples a property is tried with, by the profile that is loaded."""

from hypothesis import settings

# What those numbers refer to that are written at the properties.
PROFILE = 100


def examples(number):
    """Give as many more or fewer than a number as the loaded profile has than 100, but one at least."""
    return max(1, number * settings().max_examples // PROFILE)
