"""Every file of a run has one name, which no other module writes out."""

from __future__ import annotations

import ast
from pathlib import Path

import deepreduce
from deepreduce.store import names


def test_no_other_module_writes_out_the_name_of_a_run_file() -> None:
    package = Path(deepreduce.__file__).parent
    own = {
        value
        for value in vars(names).values()
        if isinstance(value, str) and value.count(".") == 1 and " " not in value
    }
    own -= {names.LOCK}
    assert {"plan.json", "model.safetensors", "metrics.json", "candidates.csv"} <= own
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert path.name == "names.py" or not own & found, f"{path}: {own & found}"
