"""The shape of the tree: which room may import which, and that the packaging lists what is there."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT = {
    "errors": set(),
    "telemetry": {"errors"},
    "config": {"errors"},
    "dialogue": {"config", "errors", "telemetry"},
    "checks": {"dialogue", "errors"},
    "learners": {"checks", "dialogue", "errors"},
    "evidence": {"checks", "dialogue", "errors"},
    "briefs": {"dialogue", "config", "errors", "telemetry"},
    "quality": {"transcripts", "learners", "evidence", "checks", "dialogue", "config", "errors", "telemetry"},
    "serving": {"dialogue", "config", "errors", "telemetry"},
    "transcripts": {"dialogue", "config", "errors", "telemetry"},
    "exports": {"quality", "transcripts", "checks", "learners", "dialogue", "errors", "telemetry"},
    "reports": {"quality", "exports", "transcripts", "dialogue", "errors", "telemetry"},
    "generation": {
        "briefs",
        "exports",
        "quality",
        "transcripts",
        "serving",
        "learners",
        "evidence",
        "checks",
        "dialogue",
        "config",
        "errors",
        "telemetry",
    },
    "starter": {"errors"},
    "testing": {"dialogue", "errors"},
    "agents": {"learners", "evidence", "checks", "dialogue", "tutelage"},
    "graphs": {"agents", "learners", "evidence", "checks", "dialogue", "tutelage"},
    "__main__": {"cli"},
    "cli": {
        "generation",
        "briefs",
        "exports",
        "quality",
        "reports",
        "transcripts",
        "serving",
        "dialogue",
        "config",
        "errors",
        "telemetry",
        "starter",
    },
}
"""By room, the rooms that it may import. `tutelage` stands for the public names at the top.

`graphs/studio.py` alone may also use generation: its twins for LangGraph's dev server bring a cast of their own.
"""
EXTRA = {"graphs/studio.py": {"generation"}}


def modules() -> Iterator[Path]:
    for folder in ("tutelage", "agents", "graphs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                yield path.relative_to(ROOT)


def room_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return parts[0] if parts[0] != "tutelage" else parts[1]


def imported_rooms(path: Path) -> set[str]:
    rooms: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            if top == "tutelage":
                rooms.add(rest[0] if rest else "tutelage")
    return rooms - {room_of(path)}


@pytest.mark.parametrize("path", [path for path in modules() if path != Path("tutelage/__init__.py")], ids=str)
def test_imports_run_one_way(path: Path) -> None:
    if path.parts[:2] == ("tutelage", "starter") and len(path.parts) > 3:
        return  # the files of a project that `tutelage init` writes: they use the public names, as a user would
    allowed = MAY_IMPORT[room_of(path)] | EXTRA.get(str(path), set())
    assert imported_rooms(path) <= allowed, f"{path} may import {sorted(allowed)}"


def test_the_engine_names_no_role_and_no_built_in_graph() -> None:
    """The engine finds graphs by entry point or path, so that another package's are no less than ours."""
    for path in modules():
        if path.parts[0] == "tutelage" and path != Path("tutelage/__init__.py") and "starter" not in path.parts:
            assert not imported_rooms(path) & {"agents", "graphs"}, path


def test_packages_links_and_tree_are_in_step() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(("tutelage", *path.parent.relative_to(ROOT / "tutelage").parts))
        for path in (ROOT / "tutelage").rglob("__init__.py")
        if not any(parent.is_symlink() for parent in path.parents) and "project" not in path.parts
    }
    mapped = {name: folder for name, folder in setup["package-dir"].items() if name != "tutelage"}
    assert set(setup["packages"]) == found | set(mapped)
    for name, folder in mapped.items():
        link = ROOT / name.replace(".", "/")
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder
