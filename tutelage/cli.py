"""The command `tutelage`.

Results go to stdout, logs and progress to stderr. Exit codes: 0 the target is met · 1 it failed · 2 the user can mend
it · 3 no endpoint could be reached · 130 interrupted, everything finished is on disk.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from tutelage.errors import TutelageError
from tutelage.exports.request import Request

if TYPE_CHECKING:
    from tutelage.generation.control_client import ControlClient

# Everything else is imported where it is used: `--help` answers at once.

app = App(
    name="tutelage",
    help="Models that teach each other, with critics and fact-checkers, saved as training data.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)

OUT = Parameter(name=["--out", "-o"])


@app.command
def generate(config: Path, *, out: Annotated[Path | None, OUT] = None, verbose: bool = False) -> int:
    """Makes dialogues until the target is met. Started again, it goes on with what is owed.

    Parameters
    ----------
    config
        The config file.
    out
        The run's folder; runs/NAME if not given.
    verbose
        Log every dialogue and every retry.
    """
    from tutelage.generation.generate import generate as run
    from tutelage.telemetry.logs import configure_logs

    configure_logs(verbose=verbose)
    _end_politely()
    summary = run(config, out=out, progress=True)
    print(summary)
    return summary.exit_code


@app.command
def daemon(config: Path, *, out: Annotated[Path | None, OUT] = None, verbose: bool = False) -> int:
    """Makes dialogues without end or until the target is met, takes up new briefs, and is told what to do meanwhile.

    SIGTERM and Ctrl-C have it come to its end, a second one ends it at once, SIGHUP has it read its config again.

    Parameters
    ----------
    config
        The config file.
    out
        The run's folder; runs/NAME if not given.
    verbose
        Log every dialogue and every retry.
    """
    from tutelage.generation.daemon import run_daemon
    from tutelage.telemetry.logs import configure_logs

    configure_logs(verbose=verbose)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    summary = run_daemon(config, out=out, progress=True)
    if summary is None:
        return 0
    print(summary)
    return summary.exit_code


@app.command
def status(run: str, *, json: bool = False) -> int:
    """Says how a daemon stands. `tutelage stats` counts what any run has done.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    json
        Print JSON.
    """
    from tutelage.generation.status import as_json, render_status

    said = _client(run).status()
    print(as_json(said) if json else render_status(said))
    return 0


@app.command
def pause(run: str) -> int:
    """Has a daemon begin no more dialogues; those under way go on.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    """
    print(_client(run).pause())
    return 0


@app.command
def resume(run: str) -> int:
    """Takes back a pause.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    """
    print(_client(run).resume())
    return 0


@app.command
def drain(run: str, *, wait: float | None = None) -> int:
    """Has a daemon come to its end: what is under way stops behind its step, and goes on at the next start.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    wait
        Seconds to wait for its end; exit code 1 if it takes longer.
    """
    client = _client(run)
    print(client.drain(), flush=True)
    if wait is None:
        return 0
    if not client.ended_within(wait):
        print(f"tutelage: it has not ended within {wait:g} s, and goes on draining", file=sys.stderr)
        return 1
    print("ended")
    return 0


@app.command
def reload(run: str) -> int:
    """Has a daemon read its config and prompts again, and says which keys have changed.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    """
    changed = _client(run).reload()
    print(f"changed: {', '.join(changed)}" if changed else "nothing in the config has changed; prompts were read again")
    return 0


@app.command
def retry(run: str, *ids: str, list: bool = False) -> int:  # noqa: A002
    """Has dialogues made again that failed and were set aside: by the daemon, or by the next start where none runs.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    ids
        Dialogues; all that are set aside if not given.
    list
        Only list them.
    """
    from tutelage.generation.retrying import list_set_aside, retry_set_aside
    from tutelage.generation.run_folder import find_run

    print(list_set_aside(find_run(run)) if list else retry_set_aside(find_run(run), ids))
    return 0


@app.command
def show(
    run: str,
    id: str | None = None,  # noqa: A002
    *,
    all: bool = False,  # noqa: A002
    prompts: bool = False,
) -> int:
    """Shows a run's dialogues, or one of them as a person would read it.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    id
        A dialogue's id, of which the first characters are enough, or `latest`. Without it, the dialogues are listed.
    all
        List all dialogues, not only the last ones.
    prompts
        Show what each role was sent, too.
    """
    from tutelage.generation.run_folder import find_run
    from tutelage.transcripts.display import show as display

    display(find_run(run), id, everything=all, prompts=prompts)
    return 0


@app.command
def stats(run: str, *, json: bool = False) -> int:
    """Counts a run: endings, drafts accepted and sent back, calls and tokens by role.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    json
        Print JSON.
    """
    from tutelage.generation.run_folder import find_run
    from tutelage.transcripts.statistics_tables import print_stats

    print_stats(find_run(run), json=json)
    return 0


evaluate = App(name="evaluate", help="Measures how well runs teach, and how well a student can be taught.")
app.command(evaluate)


@evaluate.default
def evaluate_runs(*runs: str, json: bool = False) -> int:
    """Measures what a run's lessons are worth: leaks, learning, claims, revisions, endings; several runs side by side.

    Parameters
    ----------
    runs
        Run folders, or names of runs under runs/.
    json
        Print JSON.
    """
    from tutelage.errors import UserError
    from tutelage.generation.run_folder import find_run
    from tutelage.quality.lessons import evaluate_runs as measure
    from tutelage.quality.lessons import render

    if not runs:
        raise UserError("say which run: `tutelage evaluate RUN`, or `tutelage evaluate student CONFIG`")
    report = measure([find_run(run) for run in runs])
    print(report.model_dump_json(indent=2) if json else render(report))
    return 0


@evaluate.command
def student(
    config: Path, *, briefs: int | None = None, samples: int = 4, perfect_judge: bool = False, json: bool = False
) -> int:
    """Measures whether a student gives up its misconception for the right reason only, beside a plainly prompted one.

    Parameters
    ----------
    config
        The config file.
    briefs
        How many of its briefs to take; all that have a misconception, if not given.
    samples
        How often each kind of feedback is tried on each brief.
    perfect_judge
        Put code, which knows the kind of each feedback, in the judge's place: only the student's words are tried.
    json
        Print JSON.
    """
    from tutelage.generation.evaluate_student import evaluate_student, render
    from tutelage.telemetry.logs import configure_logs

    configure_logs()
    _end_politely()
    report = evaluate_student(config, briefs=briefs, samples=samples, perfect_judge=perfect_judge, progress=True)
    print(report.model_dump_json(indent=2) if json else render(report))
    return report.exit_code


@app.command
def export(
    *runs: str,
    request: Annotated[Request, Parameter(name="*")],
    out: Annotated[Path, OUT],
    force: bool = False,
    push: str | None = None,
    public: bool = False,
) -> int:
    """Makes training files of one run or several.

    Parameters
    ----------
    runs
        Run folders, or names of runs under runs/.
    out
        The folder to write; it must be empty or not there.
    force
        Replace what is in the folder.
    push
        Send it to the Hugging Face Hub, too, as this data set: my-name/my-dataset. The token is HF_TOKEN's.
    public
        Let everybody see what is pushed; a data set is private without it.
    """
    from tutelage.errors import UserError
    from tutelage.exports.export import export as write
    from tutelage.exports.push import check_push
    from tutelage.exports.push import push as send
    from tutelage.generation.run_folder import find_run
    from tutelage.telemetry.logs import configure_logs

    configure_logs()
    if not runs:
        raise UserError("say which run: `tutelage export RUN --format sft --out DIR`")
    if public and push is None:
        raise UserError("`--public` is about what is pushed: say where to with `--push my-name/my-dataset`")
    if push is not None:
        check_push(push)
    print(write([find_run(run) for run in runs], request, out=out, force=force), flush=True)
    if push is not None:
        print(send(out, push, public=public))
    return 0


@app.command
def push(export: Path, name: str, *, public: bool = False) -> int:
    """Sends an export that is there already to the Hugging Face Hub.

    Parameters
    ----------
    export
        The export's folder.
    name
        The data set's name on the Hub: my-name/my-dataset. The token is HF_TOKEN's.
    public
        Let everybody see it; a data set is private without it.
    """
    from tutelage.exports.push import push as send

    print(send(export, name, public=public))
    return 0


@app.command
def judge(
    run: str,
    *,
    config: Path | None = None,
    by: str | None = None,
    role: str = "tutor",
    check: tuple[str, ...] = (),
    decisions: Path | None = None,
    list: bool = False,  # noqa: A002
    again: bool = False,
    verbose: bool = False,
) -> int:
    """Has another reviewer judge a run's transcripts, or takes over what people decided: into decisions.jsonl.

    Nothing is generated anew, and the transcripts stay as they are; every export honours the decisions.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    config
        A config whose models and roles judge; the run's own if not given.
    by
        The reviewer: a role of the run's graph, or agents/mine.py:my_critic.
    role
        Whose turns are judged.
    check
        Checks in code, too: package.module:check, or checks/mine.py:check.
    decisions
        People's decisions: JSONL, or what Label Studio exports.
    list
        Only list the turns that a person should look at, the most doubtful first.
    again
        Judge also what this reviewer judged before.
    verbose
        Log every retry.
    """
    from tutelage.errors import UserError
    from tutelage.generation.judge import doubtful
    from tutelage.generation.judge import judge as judge_again
    from tutelage.generation.judge_summary import render_doubts
    from tutelage.generation.run_folder import find_run
    from tutelage.telemetry.logs import configure_logs

    configure_logs(verbose=verbose)
    _end_politely()
    folder = find_run(run)
    if list:
        judging = {"--by": by, "--check": check, "--config": config, "--decisions": decisions, "--again": again}
        if given := ", ".join(name for name, value in judging.items() if value):
            raise UserError(f"--list only lists what is doubtful by now: leave out {given}")
        print(render_doubts(doubtful(folder, role=role)))
        return 0
    summary = judge_again(
        folder, config=config, by=by, role=role, checks=check, decisions=decisions, again=again, progress=True
    )
    print(summary)
    return summary.exit_code


@app.command
def report(
    *runs: str, out: Annotated[Path, OUT] = Path("report.html"), human: tuple[Path, ...] = (), json: bool = False
) -> int:
    """Makes one HTML page of runs: acceptance, revisions, endings, lengths, diversity, lineage, tokens, examples.

    Parameters
    ----------
    runs
        Run folders, or names of runs under runs/.
    out
        The page.
    human
        Files of what people wrote in such dialogues, for comparison: JSONL with a column text.
    json
        Print its numbers as JSON, and write no page.
    """
    from tutelage.errors import UserError
    from tutelage.generation.run_folder import find_run
    from tutelage.reports.report import as_json, write_report
    from tutelage.telemetry.logs import configure_logs

    configure_logs()
    if not runs:
        raise UserError("say which run: `tutelage report RUN`")
    folders = [find_run(run) for run in runs]
    print(as_json(folders, human=human) if json else write_report(folders, out=out, human=human))
    return 0


@app.command
def graph(name: str | None = None, *, png: Path | None = None) -> int:
    """Draws a graph: Mermaid on stdout, or a picture.

    Parameters
    ----------
    name
        A registered graph, or graphs/mine.py:my_graph. Without it, the registered graphs are listed.
    png
        Write a picture to this file.
    """
    from tutelage.dialogue.drawing import mermaid, write_png
    from tutelage.generation.registry import load_graph, registered_graphs

    if name is None:
        print("\n".join(registered_graphs()))
        return 0
    loaded = load_graph(name, Path.cwd())
    if png is None:
        print(mermaid(loaded.graph))
    else:
        write_png(loaded.graph, png)
        print(png)
    return 0


@app.command
def init(folder: Path) -> int:
    """Starts a project: a graph, agents, prompts, briefs and a config of your own, to change.

    Parameters
    ----------
    folder
        Where; nothing in it is overwritten.
    """
    from tutelage.starter import start_project

    for path in start_project(folder):
        print(path)
    return 0


@app.command
def doctor(config: Path, *, out: Annotated[Path | None, OUT] = None) -> int:
    """Checks a config against the world: endpoints, models, schemas, prompts, context lengths.

    Parameters
    ----------
    config
        The config file.
    out
        The run's folder; runs/NAME if not given.
    """
    from tutelage.generation.doctor import examine, render
    from tutelage.telemetry.logs import configure_logs

    configure_logs()
    findings = examine(config, out=out)
    print(render(findings))
    return max((finding.exit_code for finding in findings), default=0)


@app.command
def serve(config: Path, *, logs: Path | None = None, verbose: bool = False) -> int:
    """Launches the vLLM servers that a config's `serve:` entries name, and keeps them running until it is ended.

    While it runs, `generate` and `daemon` use its servers; without it they launch and end their own.

    Parameters
    ----------
    config
        The config file.
    logs
        The folder for the servers' logs; logs/ beside the config if not given.
    verbose
        Log in more detail, on stderr.
    """
    from tutelage.generation.serve import serve_models
    from tutelage.telemetry.logs import configure_logs

    configure_logs(verbose=verbose)
    return serve_models(config, logs=logs)


@app.command
def estimate(
    config: Path,
    *,
    sample: int = 20,
    speed: float | None = None,
    gpus: int | None = None,
    out: Annotated[Path | None, OUT] = None,
    keep: Path | None = None,
    json: bool = False,
) -> int:
    """Plays a few dialogues, and says what the whole run will cost: calls, tokens, time, GPU hours.

    Parameters
    ----------
    config
        The config file.
    sample
        How many dialogues to play. They are kept apart from the run.
    speed
        Completion tokens a second of all GPUs together, where that is known; what the sample came to, if not given.
    gpus
        How many GPUs serve the models; what `serve:` says, or one for each endpoint, if not given.
    out
        The run's folder, of which what is made already is left out; runs/NAME if not given.
    keep
        A folder to keep the sample in, as a run's; it is thrown away if not given.
    json
        Print JSON.
    """
    from tutelage.generation.estimate import estimate_run, render
    from tutelage.telemetry.logs import configure_logs

    configure_logs()
    _end_politely()
    estimated = estimate_run(config, sample=sample, speed=speed, gpus=gpus, out=out, keep=keep, progress=True)
    print(estimated.model_dump_json(indent=2) if json else render(estimated))
    return estimated.exit_code


@app.command
def score(
    run: str,
    *,
    out: Annotated[Path, OUT],
    config: Path | None = None,
    teacher: str | None = None,
    adapter: str | None = None,
    role: str = "tutor",
    top_k: int | None = None,
    samples: int | None = None,
    any_generation: bool = False,
    force: bool = False,
    verbose: bool = False,
) -> int:
    """Has a teacher model say how likely it finds what was said: log-probabilities to distil from, as Parquet.

    Interrupted, the same command goes on where it was.

    Parameters
    ----------
    run
        A run folder, or the name of one under runs/.
    out
        The folder to write; it must be empty or not there.
    config
        A config that names the teacher; the run's own if not given.
    teacher
        Which of the config's models; the one that plays the role if not given. It must share the tokenizer, and be served by
        vLLM.
    adapter
        The adapter on it; the role's own if neither this nor another teacher is given.
    role
        Whose accepted turns are scored.
    top_k
        Keep so many of the likeliest tokens in each place; 20 if not given. More need vLLM's --max-logprobs.
    samples
        Keep so many tokens drawn in each place by their probabilities, instead: 12 do, and they are unbiased.
    any_generation
        Score also what models of the fifth generation and later wrote.
    force
        Replace an earlier export in the folder.
    verbose
        Log every retry.
    """
    from tutelage.generation.run_folder import find_run
    from tutelage.generation.score import score as score_turns
    from tutelage.telemetry.logs import configure_logs

    configure_logs(verbose=verbose)
    _end_politely()
    summary = score_turns(
        find_run(run),
        out=out,
        config=config,
        teacher=teacher,
        adapter=adapter,
        role=role,
        top_k=top_k,
        samples=samples,
        any_generation=any_generation,
        force=force,
        progress=True,
    )
    print(summary)
    return summary.exit_code


@app.command
def play(config: Path, brief: str | None = None) -> int:
    """Plays one dialogue and shows it word by word as it is spoken. Nothing of it is kept.

    Parameters
    ----------
    config
        The config file.
    brief
        The id of a brief; the first one if not given.
    """
    from tutelage.generation.play import play_one
    from tutelage.telemetry.logs import configure_logs

    configure_logs()
    _end_politely()
    return play_one(config, brief)


def main() -> None:
    """The command's entry point."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Runs a command line, and returns what to exit with."""
    try:
        result = app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return 2
    except TutelageError as error:
        print(f"tutelage: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "tutelage: interrupted. All but the calls under way is on disk; the same command goes on.", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough of it (`| head`); what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _client(run: str) -> "ControlClient":
    from tutelage.generation.control_client import ControlClient
    from tutelage.generation.run_folder import find_run

    return ControlClient(find_run(run))


def _end_politely() -> None:
    # A polite kill is a Ctrl-C: what is finished is on disk, and servers of ours are ended with us. A shell that puts us in
    # the background has SIGINT ignored, and with it SIGTERM would be: so it is not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _as_interrupt)


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
