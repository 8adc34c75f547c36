"""The command line: parse, call a workflow, print. Nothing here computes.

Exit codes: 0 done, 1 a gate failed, 2 wrong use or bad input, 3 an internal failure, 130 interrupted (Ctrl-C),
143 terminated. Results go to stdout (``--format json`` is stable), progress and messages to stderr.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balora.errors import BaloraError, Interrupted, StorageError
from balora.terminal import Bar, StudyBar, print_tables

if TYPE_CHECKING:
    from balora.report.tables import Table
    from balora.results import AuditResult
    from balora.study import StudyOutcome

app = typer.Typer(
    name="balora",
    help="Adapt language models with low-rank adapters, and know and show that the result is fair.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(help="Make and look at data.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key, such as training.learning_rate=1e-4; repeatable."
    ),
]
Output = Annotated[
    str, typer.Option("--format", help="What to print on stdout: text or json.", metavar="text|json")
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="URL", help="Result store [default: $BALORA_STORE or sqlite:///.balora/store.db]."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from balora import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe; see the docs' configuration page.")
    ],
    overrides: Overrides = None,
    format: Output = "text",
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model by a recipe.

    Leaves a plain PEFT adapter in OUTPUT/adapter (a plain model for full fine-tuning) that loads on the original base
    without balora. Run the same command again to go on after an interruption.
    """
    from balora.config import Recipe, load

    _check_format(format)
    config = load(Recipe, recipe, overrides or ())
    from balora.train import progress_bar
    from balora.train import train as run
    from balora.train.folder import RunFolder

    finished = RunFolder(Path(config.output)).result.exists()
    if quiet or finished:
        result = run(config)
    else:
        with progress_bar(config.method.name) as progress:
            result = run(config, progress=progress)
    if finished and not quiet:
        print("finished earlier: nothing was trained now", file=sys.stderr)
    if format == "json":
        _print_json(result.model_dump(mode="json"))
        return
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"adapter     {result.adapter_dir}")
    print(f"steps       {result.steps}")
    print(f"parameters  {result.trainable_parameters:,} trainable")
    print(f"time        {result.seconds:.1f} s")
    print(f"memory      {result.peak_memory_bytes / 2**20:,.0f} MiB at most")


@app.command()
def audit(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a transformers model, or a hub name.")
    ],
    adapter: Annotated[Path | None, typer.Option(help="Folder of a PEFT adapter for MODEL.")] = None,
    base: Annotated[
        str | None, typer.Option(help="The original model, if MODEL is a full fine-tune of it.")
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|YAML",
            help="A benchmark's name, or name and options as YAML: '{name: planted, world: DIR}'; repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every draw, bootstrap and permutation.")] = 0,
    samples: Annotated[Path | None, typer.Option(help="Folder for the scored samples (Parquet).")] = None,
    store: StoreUrl = None,
    format: Output = "text",
    quiet: Quiet = False,
) -> None:
    """Assess a model, or an adapter on it, with one or more benchmarks."""
    from balora.audit import audit_model, record
    from balora.benchmarks import benchmarks
    from balora.errors import UsageError
    from balora.store import Store

    _check_format(format)
    if not benchmark:
        raise UsageError(f"--benchmark: name at least one (allowed: {', '.join(benchmarks.names())})")
    choices = [_benchmark_choice(text) for text in benchmark]
    with Bar(quiet, "auditing") as advance:
        results = audit_model(
            model, choices, adapter=adapter, base=base, seed=seed, progress=advance, samples_dir=samples
        )
    record(results, model=model, adapter=adapter, store=Store(store))
    if format == "json":
        _print_json([result.model_dump(mode="json") for result in results])
    else:
        print_tables([_audit_table(result) for result in results])
    if codes := [result.error_code for result in results if result.error_code]:
        raise typer.Exit(max(codes))


@app.command()
def study(
    config: Annotated[
        Path, typer.Argument(metavar="STUDY.yaml", help="The study; see the docs' configuration page.")
    ],
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--restart", help="Go on where the study was (default), or begin a new one."),
    ] = True,
    executor: Annotated[str, typer.Option(metavar="local", help="Where jobs run.")] = "local",
    report: Annotated[
        Path | None, typer.Option(help="The HTML report [default: OUTPUT/report.html].")
    ] = None,
    store: StoreUrl = None,
    format: Output = "text",
    quiet: Quiet = False,
) -> None:
    """Run a grid of methods x ranks x seeds and report how bias and quality move with rank.

    One failing job does not stop the others. A finished job is never done again: interrupt it and run it again at will.
    """
    from balora.config import StudyConfig, load
    from balora.errors import UsageError

    _check_format(format)
    if executor != "local":
        raise UsageError(f"--executor: unknown executor {executor!r} (allowed: local)")
    _run_study(load(StudyConfig, config, overrides or ()), resume, report, store, format, quiet)


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name.")],
    format: Annotated[str, typer.Option("--format", metavar="html|md|json", help="What to write.")] = "html",
    output: Annotated[
        Path | None, typer.Option(help="File to write [default: STUDY.html; md and json: stdout].")
    ] = None,
    store: StoreUrl = None,
) -> None:
    """Write the report of a study: self-contained HTML, Markdown, or JSON."""
    from typing import cast

    from balora.errors import UsageError
    from balora.report import Format, analyse, render, write
    from balora.store import Store

    if format not in ("html", "md", "json"):
        raise UsageError(f"--format: got {format!r} (allowed: html, md, json)")
    analysed = analyse(Store(store).study(name))
    kind = cast(Format, format)
    if output is None and kind != "html":
        print(render(analysed, kind))
        return
    path = output or Path(f"{name}.html")
    write(analysed, path, kind)
    print(path)


@app.command()
def export(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter that balora trained.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    to: Annotated[
        str, typer.Option(metavar="lora|merged", help="A plain adapter, or one plain model.")
    ] = "merged",
    base: Annotated[
        str | None, typer.Option(help="The base model [default: as the adapter names it].")
    ] = None,
    format: Output = "text",
) -> None:
    """Write an adapter as a plain LoRA, or merged into its base as a plain transformers model."""
    from balora.export import export as run

    _check_format(format)
    result = run(adapter, output, to=to, base=base)
    if format == "json":
        _print_json(result)
    else:
        print(result["output"])


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the world, the jobs and the report.")] = Path(
        "balora-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the planted-bias world.")] = 0,
    store: StoreUrl = None,
    format: Output = "text",
    quiet: Quiet = False,
) -> None:
    """Study a small language model whose bias is known exactly, in a few minutes on two cores.

    Builds the planted-bias world, fine-tunes its model with several methods and ranks, and shows how much of the
    planted bias and knowledge each leaves. Needs no network and no data.
    """
    from balora.demo import demo_study

    _check_format(format)
    with Bar(quiet, "building the world") as advance:
        config = demo_study(output, seed=seed, progress=advance)
    _run_study(config, True, None, store, format, quiet)


@data_app.command("planted")
def data_planted(
    output: Annotated[Path, typer.Option(help="Folder to write the world's folder into.")],
    overrides: Overrides = None,
    format: Output = "text",
    quiet: Quiet = False,
) -> None:
    """Build a planted-bias world: a small model, its planted bias and facts, and data to fine-tune it on.

    Knobs are set with --set, such as --set groups=24 --set strength=1.5; a misspelt one lists them all.
    """
    from balora.demo import build_named_world

    _check_format(format)
    with Bar(quiet, "building the world") as advance:
        folder = build_named_world(output, overrides or (), progress=advance)
    if format == "json":
        _print_json({"world": str(folder)})
    else:
        print(folder)


def main() -> None:
    """Entry point: every error becomes one clear message and an exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    code = 3
    try:
        code = app(prog_name="balora", standalone_mode=False) or 0
        if code == Interrupted.exit_code:  # typer turns Ctrl-C into this
            _say("interrupted; run the same command again to go on", code)
    except BaloraError as error:
        code = _say(error, error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EPERM):
            code = _internal(error)
        else:
            where = f" ({error.filename})" if error.filename else ""
            code = _say(
                f"{error.strerror}{where}; free space or choose a writable folder", StorageError.exit_code
            )
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's own errors: wrong options and arguments
        code = _say(usage(), 2) if usage else _internal(error)
    sys.exit(code)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    error = Interrupted("terminated; run the same command again to go on")
    error.exit_code = 143
    raise error


def _internal(error: Exception) -> int:
    if os.environ.get("BALORA_DEBUG"):
        raise error
    return _say(f"internal failure: {type(error).__name__}: {error} (BALORA_DEBUG=1 shows the traceback)", 3)


def _say(message: object, code: int) -> int:
    print(f"balora: {message}", file=sys.stderr)
    return code


def _check_format(format: str) -> None:
    from balora.errors import UsageError

    if format not in ("text", "json"):
        raise UsageError(f"--format: got {format!r} (allowed: text, json)")


def _benchmark_choice(text: str) -> Any:
    import yaml
    from pydantic import ValidationError

    from balora.config import BenchmarkChoice, explain
    from balora.errors import UsageError

    try:
        return BenchmarkChoice.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UsageError(f"--benchmark {text!r}: not valid YAML: {error}") from None
    except ValidationError as error:
        raise UsageError(explain(error, BenchmarkChoice, prefix=f"--benchmark {text!r}")) from None


def _run_study(
    config: Any, resume: bool, report_path: Path | None, store_url: str | None, format: str, quiet: bool
) -> None:
    from balora.errors import JobError
    from balora.report import analyse, tables, write
    from balora.store import Store
    from balora.study import run_study

    store = Store(store_url)
    with StudyBar(quiet) as progress:
        outcome = run_study(config, store=store, restart=not resume, progress=progress)
    if not outcome.finished and not outcome.skipped:
        raise JobError(_failures(outcome))  # there is nothing to report
    path = report_path or Path(config.output) / "report.html"
    analysed = analyse(store.study(config.name))
    write(analysed, path, "html")
    if format == "json":
        _print_json({"study": config.name, "report": str(path), "store": store.safe_url, **vars(outcome)})
    else:
        print_tables([tables.summary_table(analysed), tables.recommendation_table(analysed)])
        print(f"report  {path.resolve()}")
    if outcome.failed:
        raise JobError(_failures(outcome))


def _failures(outcome: StudyOutcome) -> str:
    lines = [f"{len(outcome.failed)} job(s) failed; run the same command again to retry only these:"]
    return "\n".join([*lines, *[f"  {name}: {why}" for name, why in outcome.failed.items()]])


def _audit_table(result: AuditResult) -> Table:
    from balora.report.tables import Table, number

    counts = result.counts
    title = (
        f"{result.id}: {counts.scored} scored + {counts.skipped} skipped + {counts.errored} errored "
        f"= {counts.given} given"
    )
    if result.error:
        return Table(title, ["error"], [[result.error]])
    rows = [
        [
            m.key,
            number(m.value) if m.value is not None else "undefined",
            "" if m.low is None else f"{number(m.low)} to {number(m.high)}",
            str(m.n),
            "–" if m.ideal is None else f"{m.ideal:g}",
            m.undefined_reason or "",
        ]
        for m in result.measurements
    ]
    return Table(title, ["measurement", "value", "95 % interval", "n", "ideal", "why undefined"], rows)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False))
