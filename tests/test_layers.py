"""The parts of the package are layers: imports between them go one way."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import aent

ROOT = Path(aent.__file__).parent


def _imported(path):
    """Names of what a file imports from `aent`: its modules and packages."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            parts = [name.split(".") for name in names if name.startswith("aent.")]
            yield from (part[1] for part in parts)


def test_no_modules_or_packages_import_one_another():
    imports = {}
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        imports.setdefault(part, set()).update(name for name in _imported(path) if name != part)
    assert "processes" in imports["rollout"]  # late imports count too
    TopologicalSorter(imports).prepare()  # raises an error that names a cycle
