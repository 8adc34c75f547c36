"""One job of a study: train, load what training left as a user would, audit it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from balora.environment import describe
from balora.errors import BaloraError
from balora.store import ModelVersion, Run
from balora.study.grid import Job


def run_job(job: Job) -> Run:
    """Do the job; never raises for what goes wrong inside it: the run then says ``failed`` and why."""
    started = datetime.now(UTC)
    try:
        version, cost, audits = _train_and_audit(job)
        broken = [f"benchmark {a.id}: {a.error}" for a in audits if a.error]
        return Run(
            name=job.name,
            label=job.label,
            role=job.role,
            status="failed" if broken else "finished",
            version=version,
            started_at=started,
            finished_at=datetime.now(UTC),
            job_key=job.key,
            cost=cost,
            environment=describe(),
            audits=audits,
            error="\n".join(broken) or None,
        )
    except BaloraError as error:
        return failed(job, started, str(error))
    except Exception as error:
        import traceback

        folder = Path(job.recipe.output)
        note = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            note = f" (traceback in {folder / 'error.txt'})"
        except OSError:
            pass  # the message below is then all there is
        return failed(job, started, f"{type(error).__name__}: {error}{note}")


def failed(job: Job, started: datetime, error: str) -> Run:
    """The record of a job that did not finish."""
    return Run(
        name=job.name,
        label=job.label,
        role=job.role,
        status="failed",
        version=None,
        started_at=started,
        finished_at=datetime.now(UTC),
        job_key=job.key,
        error=error,
    )


def _train_and_audit(job: Job) -> tuple[ModelVersion, dict[str, Any], list[Any]]:
    # Torch comes in here and not above, so that planning and the parent process do not wait for it.
    from balora.audit import audit
    from balora.models import load_subject
    from balora.train import base_labels, train

    recipe = job.recipe
    cost: dict[str, Any] = {}
    fields: dict[str, Any] = {"base": recipe.model.path}
    if job.role == "base":
        from balora.models import Subject, load_base, load_tokenizer

        kind, labels = base_labels(recipe)
        subject = Subject(
            load_base(recipe.model, kind, labels=labels, seed=job.seed),
            load_tokenizer(recipe.model),
            kind,
            job.name,
        )
    else:
        result = train(recipe, quiet=True)
        cost = {
            "trainable_parameters": result.trainable_parameters,
            "train_seconds": result.seconds,
            "peak_memory_bytes": result.peak_memory_bytes,
            "steps": result.steps,
        }
        fields |= {
            "method": recipe.method.name,
            "rank": job.rank,
            "artifact": str(result.artifact),
            "data_digest": result.data_digest,
        }
        subject = load_subject(**result.subject_arguments(), name=job.name)
    audits = audit(subject, job.benchmarks, seed=job.seed)
    _drop_checkpoints(Path(recipe.output))
    environment = describe()
    version = ModelVersion(
        name=job.name,
        seed=job.seed,
        recipe=recipe.model_dump(mode="json"),
        git_commit=environment.get("git_commit"),
        **fields,
    )
    return version, cost, audits


def _drop_checkpoints(output: Path) -> None:
    """A finished job resumes from its result; its checkpoints would only fill the disk of a large study."""
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
