"""The layouts, by format and tool."""

from collections.abc import Mapping
from typing import Final

from tutelage.errors import ExportError
from tutelage.exports.layouts.layout import Layout
from tutelage.exports.layouts.trl import TRL
from tutelage.exports.request import Request

LAYOUTS: Final[Mapping[tuple[str, str], Layout]] = {
    ("sft", "trl"): TRL,
    ("dpo", "trl"): TRL,
    ("kto", "trl"): TRL,
    ("prm", "trl"): TRL,
    ("grpo", "trl"): TRL,
}


def layout_of(request: Request) -> Layout:
    """The layout that an export is asked for.

    Raises:
        ExportError: The tool does not train on the format, or does not read the kind of files.
    """
    layout = LAYOUTS.get((request.format, request.tool))
    if layout is None:
        tools = ", ".join(tool for format_, tool in LAYOUTS if format_ == request.format)
        raise ExportError(f"{request.tool!r} does not read the format {request.format!r}: there is {tools}")
    if request.files and request.files not in layout.kinds:
        raise ExportError(f"{layout.tool} does not read {request.files}: leave out `files`, for {layout.kinds[0]}")
    return layout
