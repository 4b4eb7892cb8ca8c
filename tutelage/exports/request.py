"""What an export is asked for: the options of `tutelage export`, and of `export` in Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

FormatName: TypeAlias = Literal["sft", "dpo", "kto", "prm", "grpo", "traces", "label-studio"]
ToolName: TypeAlias = Literal["trl", "axolotl", "llama-factory", "openai", "nemo-rl", "verl"]
FileKind: TypeAlias = Literal["parquet", "jsonl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which rows are made of which turns, for which tool, and what is done to them before they are written."""

    format: FormatName
    """sft: a prompt and a completion for each turn. dpo: preference pairs. kto: drafts with their verdicts. prm: a dialogue's
    turns as steps, each right or wrong. grpo: prompts with the answer to verify against. traces: whole dialogues as the Hub
    shows them. label-studio: whole dialogues as tasks for people."""
    tool: ToolName = "trl"
    """The trainer that is to read the rows; traces and label-studio have none."""
    role: str = "tutor"
    """Whose turns to train on: tutor, student, a reviewer, or a role of your own."""
    files: FileKind | None = None
    """Parquet as the Hub lays it out, or JSONL; what the tool reads best if not given."""

    whole_dialogue: bool = False
    """For sft: one row of messages for each dialogue, as the role saw it, not one row for each turn."""
    forced: bool = False
    """For sft: keep turns that the reviewers still refused after the last revision."""
    with_private: bool = False
    """For sft: of a reply with a schema, learn all of it as JSON, the utterance last, and not only what was said."""
    reasoning: bool = False
    """For sft and dpo: learn what the model thought before its reply, too, between think tags."""
    unchecked: bool = False
    """For sft of a reviewer: take every verdict, and not only those that an outside check agrees with."""
    pairs: Literal["all", "revisions", "siblings", "people"] = "all"
    """For dpo: drafts against their revisions, candidates of one prompt against each other, people's choices, or all."""
    gap: float = 0.5
    """For dpo: by more than this the mean scores of two siblings must differ, unless one has the better of each score."""
    minimal_edit: bool = False
    """For dpo: of revisions, only those that change little and mend one named issue, and nothing else."""

    dedup: Literal["exact", "near", "none"] = "exact"
    """Rows whose words came before are left out: the same words, or nearly the same (needs the extra quality)."""
    near: float = 0.7
    """From which Jaccard similarity of 5-grams two rows are near-duplicates, 0.5 to 1: for dedup near and for splits."""
    against: tuple[Path, ...] = ()
    """Earlier exports of the same format for trl: rows that say what one of theirs says are left out."""
    drop_artefacts: bool = False
    """Leave out rows whose learnt words have meta-text, labels, template tokens, or are cut off."""
    benchmarks: tuple[Path, ...] = ()
    """Files of benchmarks (JSONL, Parquet or text): rows that share 13 words in a row with one are left out."""
    scrub: bool = False
    """Put placeholders for e-mail addresses, telephone numbers and the like, and write down what was replaced."""
    best: float | None = None
    """For sft and dpo: keep only this share of the scored rows, those with the highest score or margin."""
    balance_lengths: bool = False
    """For dpo: leave out pairs until chosen and rejected texts are about equally long on average."""
    validation: float = 0.0
    """The share of the rows that make a split of their own, for validation: whole briefs (needs the extra quality)."""
    test: float = 0.0
    """The same, for testing."""
    mix: tuple[Path, ...] = ()
    """Files of rows written by people, in the same format: mixed among ours."""
    real_share: float = 0.5
    """The share of what is learnt that rows of `mix` shall be, by characters."""
    any_generation: bool = False
    """Export also what models of the fifth generation and later wrote: trained on what models wrote that were trained on …"""
    licence: str | None = None
    """What the card is to name as the licence, as the Hub spells it: apache-2.0, cc-by-4.0, …"""
    seed: int = 0
    """Of what is drawn by chance: splits, balance, mix."""
