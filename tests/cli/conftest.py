"""The command line, called in this process."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from balora import cli


@dataclass(frozen=True)
class Answer:
    """What one command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def balora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """``balora("report", "x")`` as if typed: exit code and both streams."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest's own handlers stay

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["balora", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return Answer(int(ended.value.code or 0), shown.out, shown.err)

    return call
