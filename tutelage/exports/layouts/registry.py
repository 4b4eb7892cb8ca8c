"""The layouts, by format and tool."""

from collections.abc import Mapping
from typing import Final

from tutelage.errors import ExportError
from tutelage.exports.layouts import axolotl, llama_factory, nemo_rl, openai, trl, verl
from tutelage.exports.layouts.label_studio import LABEL_STUDIO
from tutelage.exports.layouts.layout import Layout
from tutelage.exports.layouts.traces import TRACES
from tutelage.exports.request import Request

LAYOUTS: Final[Mapping[tuple[str, str], Layout]] = {
    ("sft", "trl"): trl.TRL,
    ("dpo", "trl"): trl.TRL,
    ("kto", "trl"): trl.KTO,
    ("prm", "trl"): trl.PRM,
    ("grpo", "trl"): trl.GRPO,
    ("sft", "axolotl"): axolotl.SFT,
    ("dpo", "axolotl"): axolotl.DPO,
    ("kto", "axolotl"): axolotl.KTO,
    ("prm", "axolotl"): axolotl.PRM,
    ("sft", "llama-factory"): llama_factory.SFT,
    ("dpo", "llama-factory"): llama_factory.DPO,
    ("kto", "llama-factory"): llama_factory.KTO,
    ("sft", "openai"): openai.SFT,
    ("dpo", "openai"): openai.DPO,
    ("sft", "nemo-rl"): nemo_rl.SFT,
    ("dpo", "nemo-rl"): nemo_rl.DPO,
    ("sft", "verl"): verl.SFT,
    ("grpo", "verl"): verl.GRPO,
}
WITHOUT_TRAINER: Final[Mapping[str, Layout]] = {"traces": TRACES, "label-studio": LABEL_STUDIO}
"""By format, the layouts of what no trainer reads."""


def layout_of(request: Request) -> Layout:
    """The layout that an export is asked for.

    Raises:
        ExportError: The tool does not train on the format, or does not read the kind of files.
    """
    layout = _layout_of(request.format, request.tool)
    if request.files and request.files not in layout.kinds:
        raise ExportError(f"{layout.tool} does not read {request.files}: leave out `files`, for {layout.kinds[0]}")
    return layout


def _layout_of(format_: str, tool: str) -> Layout:
    if format_ in WITHOUT_TRAINER:
        if tool != "trl":  # what a request says that names none
            raise ExportError(f"no trainer reads the format {format_!r}: leave out `tool`")
        return WITHOUT_TRAINER[format_]
    if layout := LAYOUTS.get((format_, tool)):
        return layout
    tools = ", ".join(each for of, each in LAYOUTS if of == format_)
    raise ExportError(f"{tool!r} does not read the format {format_!r}: there is {tools}")
