"""The data set's card: its README.md, as the Hugging Face Hub reads it. Every number in it was counted in the files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import yaml

from tutelage.exports.contents import DIALOGUES, Contents
from tutelage.exports.guard import concerns
from tutelage.exports.rows import MESSAGES, Kind
from tutelage.exports.summary import ExportSummary
from tutelage.quality.agreement import SUBSTANTIAL
from tutelage.quality.diversity import MEASURES, Measure
from tutelage.quality.intervals import Missing
from tutelage.quality.uniformity import Measures

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

{% for concern in concerns %}

> **Mind:** {{ concern }}.
{% endfor %}

## How to read it

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
{% if longer is not none %}
| {{ code("chosen") }} longer than {{ code("rejected") }}, on average | {{ "{:+.1%}".format(longer) }} |
{% endif %}
| rows that end where the model had no tokens left | {{ number(summary.cut_off) }} |
| rows that people wrote | {{ number(summary.mixed) }} |
| share of what is learnt that people wrote | {{ "{:.1%}".format(summary.real_share) }} |

{{ table(["split", "rows", "briefs"], splits) }}
{% for name, kinds in kinds.items() %}

{{ table([code(name), "rows"], kinds) }}
{% endfor %}
{% if steps %}

{{ table(["steps", "number"], steps) }}
{% endif %}

### How the dialogues ended

Only completed dialogues give rows.

{{ table(["outcome", "reason", "dialogues"], outcomes) }}
{% if summary.unreadable %}

{{ number(summary.unreadable) }} lines of transcripts and decisions could not be read and are not counted.
{% endif %}

### What was left out of the completed ones

{% if left_out %}
{{ table(["reason", "what it means", "rows"], left_out) }}
{% else %}
Nothing.
{% endif %}
{% if lessons %}

### How the dialogues taught

Shares with their 95 % intervals, of {{ "all" if summary.completed <= most else number(most) ~ " of the" }} completed
dialogues. What judges said among it is a model's opinion, and the student is simulated.

{{ table(["what", "how often"], lessons) }}
{% endif %}
{% if alike %}

### How much the rows are alike

Of {{ number(texts) }} rows' words{{ band }}.

{{ table(["measure", "here"] + (["human teachers"] if band else []), alike) }}
{% endif %}

## How it was made

A run is a graph of roles, each played by a model. A draft of a role with reviewers is sent back with their issues until
they accept it, or no revision is left.

{{ table(["run", "dialogues"], runs) }}

{{ table(["graph", "sha256", "dialogues"], graphs) }}

{{ table(["origin", "generation", "dialogues"], origins) }}

Generation 1 was written by models of which the config does not say that they were trained on what models wrote; a model
that is trained on generation n writes generation n + 1.

Who played whom, over the calls of the completed dialogues (`model+adapter` where an adapter played):

{{ table(["role", "played by", "calls"], players) }}
{% if versions %}

{{ table(["made with", "version", "dialogues"], versions) }}
{% endif %}
{% if authors %}

### What was decided afterwards

{{ table(["by", "decisions"], authors) }}
{% if agreements %}

How far those agree who judged the same (Cohen's κ; below {{ substantial }}, neither can stand
for the other):

{{ table(["who", "both judged", "agreed", "κ"], agreements) }}
{% endif %}
{% endif %}

## Fields

{{ table(["field", "type", "what it is"], fields) }}

## Known limits

{% if calibrated %}
- **Accepted means that a model accepted it.** How far models and people agree stands above
  {{- ", and it is little: take no verdict, score or rate of a judge for a person's." if is_low else "." }}
{% else %}
- **Accepted means that a model accepted it.** The verdicts of reviewers are uncalibrated: no one has measured how often
  they agree with people.
{% endif %}
- **Fact-checked means supported by the brief's facts**, as a model read them. It does not mean true.
- **Every speaker is a model**{{ ", but in the rows that people wrote" if summary.mixed }}. What works on a simulated
  student may not work on a person.
{% if summary.request.forced %}
- **Refused turns are in it**: what was said although reviewers still refused it after the last revision.
{% endif %}
{% if longer is not none %}
- **Length.** Preference training picks up a difference in length between chosen and rejected; the mean lengths are above.
{% endif %}
{% if alike %}
- **Diversity.** The measures of it are cheap alarms, and do not say which of two good sets trains the better model.
{% endif %}
{% if summary.splits | length > 1 %}
- No brief is in two splits.
{% else %}
- Split training and test data by `brief`: several dialogues may teach the same one.
{% endif %}
{% if summary.request.licence %}
- **Licence:** {{ code(summary.request.licence) }}, as whoever exported it says. What the models' licences, and those of the
  briefs, say of their output holds, too.
{% else %}
- No licence is stated here. What the models' licences, and those of the briefs, say of their output holds for these rows.
{% endif %}
"""


def dataset_card(summary: ExportSummary, runs: Sequence[Path | str]) -> str:
    """The card of a data set, as Markdown with front matter.

    Args:
        summary: What was written.
        runs: The runs' folders.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    helpers = {"code": code, "number": _number, "table": _table}
    return environment.from_string(_CARD).render(
        **helpers,
        **_made(summary),
        **_measured(summary, runs),
        **_judged(summary.contents),
        summary=summary,
        title=f"{', '.join(map(code, sorted(summary.runs)))}: {summary.format.name} for {code(summary.request.role)}",
        front_matter=yaml.safe_dump(_front_matter(summary), sort_keys=False, allow_unicode=True),
        trial=", ".join(code(model) for model in sorted(_trial_models(summary))),
        concerns=[note for _, note in concerns(summary)],
        fields=[(code(name), _kind_name(column.kind), column.about) for name, column in summary.columns.items()],
    )


def _made(summary: ExportSummary) -> dict[str, Any]:
    """What was counted of the dialogues, as rows of tables."""
    return {
        "outcomes": [(status, code(reason), count) for (status, reason), count in summary.outcomes.most_common()],
        "left_out": [(reason.value, reason.about, count) for reason, count in summary.left_out.most_common()],
        "runs": [(code(run), count) for run, count in summary.runs.most_common()],
        "graphs": [(code(name), code(sha256[:16]), count) for (name, sha256), count in summary.graphs.most_common()],
        "origins": [(*key, count) for key, count in summary.origins.most_common()],
        "players": [
            (code(role), code(who), count)
            for role, whos in summary.roles.items()
            for who, count in whos.most_common()
            if count
        ],
        "versions": [(code(name), code(version), count) for (name, version), count in sorted(summary.versions.items())],
    }


def _measured(summary: ExportSummary, runs: Sequence[Path | str]) -> dict[str, Any]:
    """What was counted and measured of the rows, and of a sample of the dialogues."""
    contents, mean = summary.contents, summary.mean_characters
    alike = contents.diversity()
    has_band = alike is not None and MEASURES[0].human(alike.texts) is not None
    return {
        "splits": [(split, count.rows, len(count.briefs)) for split, count in contents.splits.items()],
        "kinds": {name: [(code(value), count) for value, count in counted] for name, counted in contents.kinds.items()},
        "steps": contents.steps.most_common(),
        "longer": mean["chosen"] / mean["rejected"] - 1 if mean.get("rejected") else None,
        "lessons": [(_plain(what), _plain(value)) for what, value in contents.lessons(runs)],
        "most": DIALOGUES,
        "texts": alike.texts if alike else 0,
        "band": ", beside where nine in ten samples of as many turns by human teachers lie (MathDial)"
        if has_band
        else "",
        "alike": [(each.title, *_beside_people(each, alike)) for each in MEASURES] if alike else [],
    }


def _beside_people(measure: Measure, found: Measures) -> tuple[str, ...]:
    value, band = f"{measure.of(found):,.{measure.decimals}f}", measure.human(found.texts)
    return (value, f"{band.low:,.{measure.decimals}f} to {band.high:,.{measure.decimals}f}") if band else (value,)


def _judged(contents: Contents) -> dict[str, Any]:
    """What was decided about the dialogues, and how far those who decided agree."""
    names = contents.names
    return {
        "authors": [(code(names.get(author, author)), count) for author, count in contents.authors.most_common()],
        "agreements": [
            (
                " and ".join(code(names.get(author, author)) for author in each.authors),
                each.agreed.of,
                f"{each.agreed.share:.1%}",
                each.kappa.why if isinstance(each.kappa, Missing) else f"{each.kappa.value:.2f}",
            )
            for each in contents.agreements
        ],
        "calibrated": bool(contents.calibrations),
        "is_low": any(each.is_low for each in contents.calibrations),
        "substantial": SUBSTANTIAL,
    }


def _front_matter(summary: ExportSummary) -> dict[str, Any]:
    languages = sorted(language for language in summary.languages if re.fullmatch("[a-z]{2,3}", language))
    return {
        **({"language": languages} if languages else {}),
        **({"license": summary.request.licence} if summary.request.licence else {}),
        "task_categories": ["text-generation"],
        "size_categories": [next((name for limit, name in _SIZES if summary.rows < limit), "n>1M")],
        "tags": [
            "synthetic",
            "tutelage",
            "dialogue",
            summary.format.name,
            *(["trl"] if summary.layout.tool == "TRL" else []),
        ],
        **_where_its_rows_are(summary),
    }


def _where_its_rows_are(summary: ExportSummary) -> dict[str, Any]:
    """What tells the Hub and `datasets` where the rows of each split are, and what they hold."""
    if summary.layout.rows_at is None:
        return {}
    files = [
        {"split": split, "path": summary.layout.rows_at.format(split=split, kind=summary.files)}
        for split in summary.splits
    ]
    return {
        "configs": [{"config_name": "default", "data_files": files}],
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


def code(name: str) -> str:
    """A name that users and endpoints chose, as Markdown: it neither ends a table's cell nor begins a tag."""
    return f"`{name.translate(_UNSAFE).strip()}`"


def _plain(text: str) -> str:
    return text.translate(_UNSAFE)


def _number(value: int) -> str:
    return f"{value:,}"
