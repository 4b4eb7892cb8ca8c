"""What an export is, for programs: `export.json` beside its card. A folder without it is never replaced."""

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tutelage.errors import ExportError

FILE: Final = "export.json"


class Manifest(BaseModel):
    """What an export is made of."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    schema_: Literal["tutelage.export/1"] = Field(default="tutelage.export/1", alias="schema")
    format: str
    tool: str
    role: str
    runs: dict[str, int]
    """By run, its completed dialogues."""
    splits: dict[str, int]
    """Rows by split."""
    generation: int
    """The highest among its dialogues: what is trained on it writes the next one."""
    real_share: float
    """How much of what is to be learnt from it people wrote, by characters: 0 to 1."""
    learnt_characters: int = 0
    """Of what is to be learnt: how much it weighs beside other exports. 0 if it is not known."""
    files: list[str]
    """What the export put into its folder, by name."""


def read_manifest(folder: Path) -> Manifest:
    """Reads what an export is.

    Raises:
        ExportError: The folder is no export.
    """
    try:
        return Manifest.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ExportError(f"{str(folder)!r} is no export: it has no {FILE} that could be read") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes down what an export is."""
    (folder / FILE).write_text(manifest.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
