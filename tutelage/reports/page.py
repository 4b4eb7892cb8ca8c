"""The page of a report: its sections, each a few pictures with a sentence, put into one HTML file.

Whatever models and users wrote is data: the template escapes all of it, and only the pictures, which escape their own
words, go in as they are.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import jinja2
from markupsafe import Markup, escape

from tutelage.quality.diversity import MEASURES
from tutelage.quality.intervals import Missing, Rate
from tutelage.quality.lesson_tables import Value, as_text, sections
from tutelage.reports.bars import Dots, dots_svg
from tutelage.reports.canvas import PAGE_NAMES, SERIES, percent
from tutelage.reports.curves import time_picture, turns_picture, words_picture
from tutelage.reports.diversity_pictures import diversity_over_time_picture, diversity_picture, value_of
from tutelage.reports.examples import Draft
from tutelage.reports.numbers import ReportNumbers, RunNumbers
from tutelage.reports.picture import Picture, many, prose, quantile
from tutelage.reports.pictures import (
    acceptance_picture,
    ending_order,
    endings_picture,
    most_objections,
    most_tokens,
    objections_picture,
    tokens_picture,
)
from tutelage.transcripts.terminal import clean

_TEMPLATE: Final = "page.html.jinja"
_DRAFTED: Final = {
    "Drafts": "What sending drafts back was good for",
    "Arbiter": "What the arbiter preferred",
}
_LEARNT: Final = {
    "Answers given away": "Who gave the answer away",
    "The student's belief": "What became of the student's belief",
    "Learning": "What the student could answer",
    "Claims": "What was claimed",
    "Answers of the briefs, by execution": "Whether the briefs' answers hold",
}
"""Sections of `tutelage evaluate` that are drawn, by their titles there, and how they are called here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    lead: str
    rows: Sequence[Sequence[Picture]]
    """Those of one row show the same of each run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Numbers of several runs, side by side."""

    title: str
    rows: Sequence[tuple[str, Sequence[str]]]


def as_page(report: ReportNumbers) -> str:
    """A report as one HTML page that needs nothing from elsewhere."""
    runs = [run for run in report.runs if run.statistics.dialogues]
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            report=report,
            title=", ".join(run.run for run in report.runs),
            glance=_glance(report.runs),
            sections=[section for section in _sections(runs) if any(section.rows)],
            tables=list(_tables(report.runs)),
            empty=[run.run for run in report.runs if not run.statistics.dialogues],
            several=len(report.runs) > 1,
            measures=MEASURES,
            valued=value_of,
            variable=PAGE_NAMES.__getitem__,
        )
    )


def _sections(runs: Sequence[RunNumbers]) -> Iterator[Section]:
    reviewed = list(dict.fromkeys(each.role for run in runs for each in run.statistics.acceptance))
    speakers = list(dict.fromkeys([*reviewed, *(role for run in runs for role in run.words)]))
    longest = max((max(run.turns, default=0) for run in runs), default=0)
    wordiest = max((quantile(counted, 0.99) for run in runs for counted in run.words.values()), default=1)
    order, most = ending_order(runs), most_tokens(runs)
    yield Section(
        id="endings",
        title="How the dialogues ended",
        lead="Completed dialogues are what exports are made of. Discarded ones were refused by a check, failed ones could "
        "not go on.",
        rows=[[endings_picture(run, order) for run in runs], _there(time_picture(run, speakers) for run in runs)],
    )
    yield Section(
        id="reviews",
        title="What the reviewers let pass",
        lead="A draft that a reviewer refuses is sent back and revised. The last one is said even if it is still refused; "
        "exports leave such turns out.",
        rows=[
            [acceptance_picture(run, reviewed) for run in runs if reviewed],
            _there(objections_picture(run, most_objections(runs)) for run in runs),
            list(_measured(runs, _DRAFTED)),
        ],
    )
    yield Section(
        id="lessons",
        title="What was learnt, and from what",
        lead="Each dot is a share with its 95 % interval: where two intervals overlap, the runs may well be alike. Judges "
        "are models; how often they are right is not known unless people judged beside them.",
        rows=[list(_measured(runs, _LEARNT))],
    )
    yield Section(
        id="lengths",
        title="How long they are",
        lead="Turns of a dialogue, and words of a turn.",
        rows=[
            _there(turns_picture(run, longest) for run in runs),
            _there(words_picture(run, speakers, wordiest) for run in runs),
        ],
    )
    yield Section(
        id="diversity",
        title="How much they are alike",
        lead="Models that teach write more alike than people do. What is too uniform, and grows more so from generation to "
        "generation, makes a model that is trained on it forget what is rare.",
        rows=[
            _there(diversity_picture(run, speakers) for run in runs),
            _there(diversity_over_time_picture(run, speakers) for run in runs),
        ],
    )
    yield Section(
        id="tokens",
        title="What they took",
        lead="Tokens by role, over all calls, those of drafts that were sent back among them.",
        rows=[_there(tokens_picture(run, most) for run in runs)],
    )


def _measured(runs: Sequence[RunNumbers], titles: Mapping[str, str]) -> Iterator[Picture]:
    by_run = [sections(run.lessons) for run in runs]
    key = tuple((SERIES[number % len(SERIES)], clean(run.run)) for number, run in enumerate(runs))
    for section, title in titles.items():
        labels = dict.fromkeys(label for each in by_run for label in each.get(section, {}))
        rows = [
            Dots(label=label, rates=rates)
            for label in labels
            if (rates := {
                number: value
                for number, each in enumerate(by_run)
                if isinstance(value := each[section].get(label), Rate)
            })
        ]  # fmt: skip
        if rows:
            yield Picture(title=title, svg=dots_svg(rows), key=key if len(runs) > 1 else ())


def _glance(runs: Sequence[RunNumbers]) -> Table:
    rows = {
        "dialogues": [f"{run.statistics.dialogues:,}" for run in runs],
        "completed": [_completed(run) for run in runs],
        "briefs": [f"{run.briefs:,}" for run in runs],
        "graph": [", ".join(run.lessons.graphs) or "none" for run in runs],
        "written by": [", ".join(run.parents) or "unknown" for run in runs],
        "generation": [_generations(run) for run in runs],
        "people's share in its models' training": [_real(run) for run in runs],
        "turns of a dialogue": [_turns(run) for run in runs],
        "tokens written": [f"{sum(each.completion_tokens for each in run.statistics.calls):,}" for run in runs],
        "last finished": [_finished(run) for run in runs],
    }
    if any(run.decisions for run in runs):
        rows["decisions"] = [_decisions(run) for run in runs]
        rows["agreement"] = [_agreement(run) for run in runs]
    if any(run.unreadable for run in runs):
        rows["lines not readable"] = [f"{run.unreadable:,}" for run in runs]
    return Table(title="At a glance", rows=list(rows.items()))


def _tables(runs: Sequence[RunNumbers]) -> Iterator[Table]:
    """All that `tutelage evaluate` says, a table for each of its sections."""
    by_run = [sections(run.lessons) for run in runs]
    for title in dict.fromkeys(title for each in by_run for title in each):
        labels = dict.fromkeys(label for each in by_run for label in each[title])
        rows: list[tuple[str, Sequence[str]]] = [
            (label, [clean(as_text(each[title].get(label, _NOT_THERE))) for each in by_run]) for label in labels
        ]
        if rows:
            yield Table(title=title, rows=rows)


_NOT_THERE: Final[Value] = Missing(why="none in this run")


def _completed(run: RunNumbers) -> str:
    total = run.statistics.dialogues
    return f"{run.lessons.completed:,} ({percent(run.lessons.completed / total)})" if total else "0"


def _generations(run: RunNumbers) -> str:
    return "; ".join(f"{each.generation}, {each.origin}: {each.dialogues:,}" for each in run.origins) or "none"


def _real(run: RunNumbers) -> str:
    return percent(run.real_share) if run.real_share < 1 else "all, as far as the config says"


def _turns(run: RunNumbers) -> str:
    spread = run.statistics.turns
    return f"{spread.mean:,.1f} ({spread.least:,} to {spread.most:,})" if spread else "none"


def _finished(run: RunNumbers) -> str:
    throughput = run.statistics.throughput
    return f"{throughput.finished:%Y-%m-%d %H:%M} UTC" if throughput else "nothing yet"


def _decisions(run: RunNumbers) -> str:
    if not run.decisions:
        return "none"
    by = ", ".join(f"{author} {count:,}" for author, count in run.decisions.authors.items())
    dropped = (
        f"{many(run.decisions.dropped, 'dialogue')} dropped, {many(run.decisions.turns_dropped, 'turn')} of others"
    )
    return f"{run.decisions.decisions:,} ({by}); {dropped}"


def _agreement(run: RunNumbers) -> str:
    said = []
    for each in run.decisions.agreements if run.decisions else ():
        kappa = "\N{EN DASH}" if isinstance(each.kappa, Missing) else f"{each.kappa.value:.2f}"
        low = ", too low to stand for each other" if each.is_low else ""
        said.append(f"{' and '.join(each.authors)}: \N{GREEK SMALL LETTER KAPPA} {kappa} on {each.agreed.of:,}{low}")
    return "; ".join(said) or "no two have judged the same"


def _marked(draft: Draft) -> Markup:
    """A draft's text, escaped, with the words marked that its reviewers pointed at."""
    text = clean(draft.text)
    spans = {span for each in draft.objections if (span := clean(each.span)) and span in text}
    if not spans:
        return escape(text)
    longest_first = sorted(spans, key=lambda span: -len(span))
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
    return Markup("").join(Markup("<mark>{}</mark>").format(part) if part in spans else escape(part) for part in parts)


def _there(pictures: "Iterator[Picture | None]") -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


@cache
def _environment() -> jinja2.Environment:
    def load(name: str) -> str:
        return (files("tutelage.reports") / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(prose=prose, clean=clean, marked=_marked)
    return environment
