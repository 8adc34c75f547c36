"""The real-text example, reduced: a pre-trained encoder, real tweets and templates, through the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "identity_fairness"


@pytest.mark.slow
@pytest.mark.real_data
def test_the_reduced_study_runs_whole(real_data: Path, minilm: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("BALORA_DATA", str(real_data))
    monkeypatch.setenv("MINILM", str(minilm))
    arguments = ["study", FOLDER / "reduced.yaml", "--set", f"output={tmp_path}/out"]
    arguments += ["--store", f"sqlite:///{tmp_path}/store.db", "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "balora", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found["finished"]) == ["balora-cf-r4-s0", "full-s0", "lora-r4-s0"]

    from balora.store import Store

    for run in Store(f"sqlite:///{tmp_path}/store.db").study("identity_fairness_reduced").runs:
        madlibs, test, swaps, drift = run.audits
        assert madlibs.counts.scored == madlibs.counts.given == 600
        assert madlibs.get("false_positive_rate_spread").value is not None
        # 24,783 tweets, of which neither class is rarer than 1 in 20: even 12 steps do not do worse than chance
        assert test.get("accuracy").value > 0.2
        assert swaps.counts.errored == drift.counts.errored == 0
        assert drift.get("kl").value > 0
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "madlibs/false_positive_rate_spread" in page
    assert "<script src" not in page  # self-contained
