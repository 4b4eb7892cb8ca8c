"""Imports a user's own file: a graph, an agent, a check."""

import importlib.util
import sys
from collections.abc import Container
from pathlib import Path
from types import ModuleType


def import_file(path: Path, *, kind: str, rooms: Container[str]) -> tuple[ModuleType, Path] | None:
    """Imports a file; its project comes first on `sys.path` from then on, so that it can import its neighbours.

    Args:
        path: The file, which is there.
        kind: What it is imported for, in its module's name.
        rooms: The folders of a project that may hold it: the project is then the folder above. Otherwise it is the file's.

    Returns:
        The module, and the project's folder; None if it is no Python file.

    Raises:
        Exception: Whatever it raises while it is imported.
    """
    project = path.parent.parent if path.parent.name in rooms else path.parent
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    spec = importlib.util.spec_from_file_location(f"tutelage_{kind}_{path.stem}", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic and get_type_hints look a class's module up here
    spec.loader.exec_module(module)
    return module, project
