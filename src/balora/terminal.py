"""What the command line shows on a terminal: tables on stdout, progress on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balora.report.tables import Table
    from balora.study import Job, StudyOutcome


def print_tables(found: list[Table]) -> None:
    """Tables with titles and notes; cells are data and never markup."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    for table in found:
        shown = RichTable(title=Text(table.title), title_justify="left", title_style="bold")
        for head in table.head:
            shown.add_column(Text(head), overflow="fold")
        for row in table.rows:
            shown.add_row(*[Text(cell) for cell in row])
        console.print(shown)
        if table.note:
            console.print(Text(table.note, style="dim"))


class Bar:
    """A progress bar on stderr as a context: gives a function of (done, total)."""

    def __init__(self, quiet: bool, what: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Any:
        self._progress.start()
        return self.advance

    def advance(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class StudyBar(Bar):
    """A study's progress: jobs done of all, the one that runs, failures as they come."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet, "planning")

    def __enter__(self) -> Any:
        super().__enter__()
        return self.event

    def event(self, event: str, job: Job, outcome: StudyOutcome, total: int) -> None:
        if event == "started":
            self.describe(job.name)
        elif event == "failed":
            self.say(f"failed: {job.name}: {outcome.failed[job.name]}")
        self.advance(len(outcome.finished) + len(outcome.failed) + len(outcome.skipped), total)
