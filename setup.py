"""What setup.cfg cannot say: the source distribution is the repository, so that its tests run from it."""

from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
FILES = ["*.md", "CITATION.cff", ".gitignore", ".ruff.toml", ".ci/*", ".github/workflows/*.yml"]
FOLDERS = ["blockbuster", "tests", "benchmarks", "docs", "notebooks"]
KINDS = ["py", "md", "json", "ipynb", "png"]


def _is_hidden(folder):
    """Say whether a folder is what an editor keeps for itself, such as ``.ipynb_checkpoints``."""
    inside = folder.relative_to(ROOT).parts
    return inside[:1] not in ((".ci",), (".github",)) and any(part.startswith(".") for part in inside)


class CompleteSdist(sdist):
    """By itself setuptools takes of the tests what is named ``tests/test*.py``, without what these import."""

    def make_distribution(self):
        patterns = [*FILES, *(f"{folder}/**/*.{kind}" for folder in FOLDERS for kind in KINDS)]
        found = {
            path
            for pattern in patterns
            for path in ROOT.glob(pattern)
            if path.is_file() and not _is_hidden(path.parent)
        }
        self.filelist.extend(sorted(str(path.relative_to(ROOT)) for path in found))
        self.filelist.remove_duplicates()
        super().make_distribution()


setup(cmdclass={"sdist": CompleteSdist})
