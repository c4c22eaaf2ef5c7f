"""Every notebook runs from top to bottom, and the outputs it is kept with are those it gives."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def texts(notebook):
    """Text outputs of each code cell; times and pictures aside."""
    return [_texts(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def _texts(outputs):
    """What is printed arrives in one piece or in several."""
    found, printed = [], ""
    for output in outputs:
        if output.output_type == "stream":
            printed += output.text
        else:
            found.append(output.get("data", {}).get("text/plain", ""))
    return [re.sub(r"\d+\.\d\d s", "TIME", text) for text in [printed, *found]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_notebook_runs_and_its_outputs_are_fresh(path):
    kept = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    NotebookClient(fresh, timeout=600).execute()
    assert texts(fresh) == texts(kept)


def test_there_are_notebooks():
    assert NOTEBOOKS
