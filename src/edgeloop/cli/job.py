"""Jobs for workers: submit, list, fetch what they made."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.bundle.durable import write_durable
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, show_table, size
from edgeloop.contracts.api import JobRequest
from edgeloop.transport.cloud_api import CloudApi, read_operator

app = typer.Typer(help="Work for toolchain workers.", no_args_is_help=True)


@app.command()
def submit(
    kind: Annotated[str, typer.Argument(help="train or retrain.")],
    bundle: Annotated[str, typer.Argument(help="NAME@VERSION that it will make.")],
    parent: Annotated[str | None, typer.Option(help="NAME@VERSION to go on from.")] = None,
    data: Annotated[
        str, typer.Option(help="Where digits come from: bundled, keras, or a path in what the worker lends.")
    ] = "bundled",
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Ask for a model to be trained, or retrained on what people labelled."""
    with CloudApi(read_operator(operator)) as api:
        job = api.submit_job(JobRequest(kind=kind, bundle=bundle, parent=parent, recipe={"source": data}))
    if as_json:
        emit_json(job)
        return
    console.print(f"job {job.job_id}: {job.kind} {job.bundle}, {job.message}", highlight=False)


@app.command("list")
def list_jobs(operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """All jobs."""
    with CloudApi(read_operator(operator)) as api:
        jobs = api.jobs()
    if as_json:
        emit_json(jobs)
        return
    show_table(
        "jobs",
        ("id", "kind", "bundle", "state", "done", "worker", "message"),
        [(j.job_id, j.kind, j.bundle, j.state, f"{j.progress:.0%}", j.worker or "-", j.message) for j in jobs],
    )


@app.command()
def fetch(
    job_id: Annotated[str, typer.Argument(help="The job's id.")],
    out: Annotated[Path, typer.Option("--out", help="Where it goes.")],
    artifact: Annotated[str, typer.Option(help="Which of its artifacts.")] = "bundle.edgeloop",
    operator: Operator = OPERATOR_DEFAULT,
) -> None:
    """Fetch what a job made; sign and publish it with 'edgeloop bundle publish'."""
    with CloudApi(read_operator(operator)) as api:
        data = api.artifact(job_id, artifact)
    write_durable(out, data)
    console.print(f"{out}, {size(len(data))}", highlight=False)
