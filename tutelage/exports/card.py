"""The data set's card: its README.md, as the Hugging Face Hub reads it. Every number in it was counted in the files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import jinja2
import yaml

from tutelage.exports.rows import MESSAGES, Kind
from tutelage.exports.summary import ExportSummary

FILE: Final = "README.md"

TRIAL_MODELS: Final = frozenset({"SmolLM2-135M-Instruct"})
"""The embedded model: there to try things out."""

_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))

_CARD: Final = """\
---
{{ front_matter }}---

# {{ title }}

Dialogues between language models, written down by Tutelage as rows for {{ summary.format.about }}.

The role that is to be learnt here is {{ code(summary.request.role) }}.
{% if trial %}

> **For trying out, not for training.** {{ trial }} played in these dialogues: a model of 135 million parameters that is
> there so that a first run works anywhere.
{% endif %}

{{ summary.layout.usage }}

## Numbers

| | |
|---|---:|
| rows | {{ number(summary.rows) }} |
| dialogues with rows | {{ number(summary.dialogues) }} |
| completed dialogues | {{ number(summary.completed) }} |
| briefs taught in them | {{ number(summary.briefs | length) }} |
| turns in them, of all roles | {{ number(summary.turns) }} |
{% for name, mean in summary.mean_characters.items() %}
| mean characters of {{ code(name) }} | {{ "{:,.1f}".format(mean) }} |
{% endfor %}
| rows that end where the model had no tokens left | {{ number(summary.cut_off) }} |

### How the dialogues ended

Only completed dialogues give rows.

{{ table(["outcome", "reason", "dialogues"], outcomes) }}
{% if summary.unreadable %}

{{ number(summary.unreadable) }} lines of the transcripts could not be read and are not counted.
{% endif %}

### What was left out of the completed ones

{% if left_out %}
{{ table(["reason", "what it means", "rows"], left_out) }}
{% else %}
Nothing.
{% endif %}

## How it was made

A run is a graph of roles, each played by a model. A draft of a role with reviewers is sent back with their issues until
they accept it, or no revision is left.

{{ table(["run", "dialogues"], runs) }}

{{ table(["graph", "sha256", "dialogues"], graphs) }}

{{ table(["origin", "generation", "dialogues"], origins) }}

Who played whom, over the calls of the completed dialogues (`model+adapter` where an adapter played):

{{ table(["role", "played by", "calls"], players) }}
{% if versions %}

{{ table(["made with", "version", "dialogues"], versions) }}
{% endif %}

## Fields

{{ table(["field", "type", "what it is"], fields) }}

## Known limits

- **Accepted means that a model accepted it.** The verdicts of reviewers are uncalibrated: no one has measured how often
  they agree with people.
- **Fact-checked means supported by the brief's facts**, as a model read them. It does not mean true.
- **Every speaker is a model.** What works on a simulated student may not work on a person.
{% if summary.request.forced %}
- **Refused turns are in it**: what was said although reviewers still refused it after the last revision.
{% endif %}
{% if summary.format.name == "dpo" %}
- **Length.** Preference training picks up a difference in length between chosen and rejected; the mean lengths are above.
{% endif %}
- Split training and test data by `brief`: several dialogues may teach the same one.
- No licence is stated here. What the models' licences, and those of the briefs, say of their output holds for these rows.
"""


def dataset_card(summary: ExportSummary) -> str:
    """The card of a data set, as Markdown with front matter."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    helpers = {"code": _code, "number": _number, "table": _table}
    return environment.from_string(_CARD).render(
        **helpers,
        summary=summary,
        title=f"{', '.join(map(_code, sorted(summary.runs)))}: {summary.format.name} for {_code(summary.request.role)}",
        front_matter=yaml.safe_dump(_front_matter(summary), sort_keys=False, allow_unicode=True),
        trial=", ".join(_code(model) for model in sorted(_trial_models(summary))),
        outcomes=[(status, _code(reason), count) for (status, reason), count in summary.outcomes.most_common()],
        left_out=[(reason.value, reason.about, count) for reason, count in summary.left_out.most_common()],
        runs=[(_code(run), count) for run, count in summary.runs.most_common()],
        graphs=[(_code(name), _code(sha256[:16]), count) for (name, sha256), count in summary.graphs.most_common()],
        origins=[(*key, count) for key, count in summary.origins.most_common()],
        players=[
            (_code(role), _code(who), count)
            for role, whos in summary.roles.items()
            for who, count in whos.most_common()
            if count
        ],
        versions=[(_code(name), _code(version), count) for (name, version), count in sorted(summary.versions.items())],
        fields=[(_code(name), _kind_name(column.kind), column.about) for name, column in summary.columns.items()],
    )


def _front_matter(summary: ExportSummary) -> dict[str, Any]:
    languages = sorted(language for language in summary.languages if re.fullmatch("[a-z]{2,3}", language))
    return {
        **({"language": languages} if languages else {}),
        "task_categories": ["text-generation"],
        "size_categories": [next((name for limit, name in _SIZES if summary.rows < limit), "n>1M")],
        "tags": ["synthetic", "tutelage", "dialogue", summary.format.name, "trl"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.{summary.files}"} for split in summary.splits],
            }
        ],
        # Said, for `datasets` guesses the types of JSONL from its first lines, where all lists may be empty.
        "dataset_info": {
            "features": [{"name": name, **_feature(column.kind)} for name, column in summary.columns.items()]
        },
    }


def _feature(kind: Kind) -> dict[str, Any]:
    """A kind of column, as `datasets` spells its type in a card."""
    if isinstance(kind, str):
        return {"dtype": {"text": "string", "integer": "int64", "number": "float64", "flag": "bool"}[kind]}
    if isinstance(kind, Mapping):
        return {"struct": [{"name": name, **_feature(each)} for name, each in kind.items()]}
    of = _feature(kind[0])
    return {"list": of.get("dtype") or of.get("struct") or of}


def _kind_name(kind: Kind) -> str:
    if isinstance(kind, str):
        return kind
    if kind is MESSAGES:
        return "messages"
    return "record" if isinstance(kind, Mapping) else f"list of {_kind_name(kind[0])}"


def _trial_models(summary: ExportSummary) -> set[str]:
    players = {who.partition("+")[0] for whos in summary.roles.values() for who, count in whos.items() if count}
    return players & TRIAL_MODELS


_UNSAFE: Final[Mapping[int, str]] = {ord(character): " " for character in "\n\r\t`|<>"}
"""Names come from users and endpoints: none of them may end a table's cell or begin a tag."""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    body = [[_number(cell) if isinstance(cell, int) else cell for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *body))


def _code(name: str) -> str:
    return f"`{name.translate(_UNSAFE).strip()}`"


def _number(value: int) -> str:
    return f"{value:,}"
