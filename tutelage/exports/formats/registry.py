"""The formats of exports, by name. A new one is one `Format`: a function that gives rows, and the columns that they have."""

from collections.abc import Mapping
from typing import Final

from tutelage.exports.formats.dialogues import LABEL_STUDIO, TRACES
from tutelage.exports.formats.dpo import DPO
from tutelage.exports.formats.grpo import GRPO
from tutelage.exports.formats.kto import KTO
from tutelage.exports.formats.prm import PRM
from tutelage.exports.formats.sft import SFT
from tutelage.exports.rows import Format

FORMATS: Final[Mapping[str, Format]] = {each.name: each for each in (SFT, DPO, KTO, PRM, GRPO, TRACES, LABEL_STUDIO)}
