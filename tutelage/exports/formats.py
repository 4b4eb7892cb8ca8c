"""The formats of exports, by name. A new one is one `Format`: a function that gives rows, and the columns that they have."""

from collections.abc import Mapping
from typing import Final

from tutelage.exports.dialogues import LABEL_STUDIO, TRACES
from tutelage.exports.dpo import DPO
from tutelage.exports.grpo import GRPO
from tutelage.exports.kto import KTO
from tutelage.exports.prm import PRM
from tutelage.exports.rows import Format
from tutelage.exports.sft import SFT

FORMATS: Final[Mapping[str, Format]] = {each.name: each for each in (SFT, DPO, KTO, PRM, GRPO, TRACES, LABEL_STUDIO)}
