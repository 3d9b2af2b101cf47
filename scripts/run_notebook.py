"""Run the example notebook and store its outputs, without times and paths: python scripts/run_notebook.py [FILE]"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DEFAULT = Path(__file__).parents[1] / "docs" / "example.ipynb"


def main(path: Path = DEFAULT) -> None:
    """Run every cell in order, in an empty folder; change the file only if all cells succeed."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": folder}}).execute()
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:]))
