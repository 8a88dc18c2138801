"""job=fit and job=predict: `scaling/` behind the command line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxlm.config import Config, FitJob
from jaxlm.errors import UserError


@contextmanager
def told_to_the_user() -> Iterator[None]:
    """Turns a ScalingError into a UserError."""
    from scaling.errors import ScalingError

    try:
        yield
    except ScalingError as error:
        raise UserError(str(error)) from None


def fit_job(config: Config, load_engine: object) -> int:
    """job=fit: tables on stdout, fit.json and a report in job.out; 1 where the fit is not sound."""
    job: FitJob = config.job
    if job.records is None:
        raise UserError(
            "job.records is missing: a CSV, JSON or npy file of N, D and loss, or a folder or glob "
            "of runs."
        )
    from scaling.analysis import analyse
    from scaling.records import read_records

    with told_to_the_user():
        records = read_records(job.records, count=job.count, keep=job.keep, where=job.where)
        analysis = analyse(
            records,
            job.law,
            holdout=job.holdout,
            budgets=job.budgets,
            delta=job.delta,
            resamples=job.bootstrap,
            bootstrap_starts=job.bootstrap_starts,
        )
        print(analysis.text())
        print(f"\nreport: {analysis.save(job.out)}")
    return 0 if analysis.fit.success else 1


def predict_job(config: Config, load_engine: object) -> int:
    """job=predict: one answer as a table, and as JSON in job.out; job.hours answers with a plan."""
    from scaling.fit import load_fit
    from scaling.predict import predict
    from scaling.tables import prediction_table

    job = config.job
    asked: dict[str, Any] = {name: getattr(job, name) for name in ("N", "D", "C", "target_loss")}
    if job.hours is not None:
        taken = [name for name, value in asked.items() if value is not None]
        if taken:
            raise UserError(
                f"job.hours={job.hours} and job.{taken[0]}={asked[taken[0]]} are two questions; "
                "ask one."
            )
        asked["C"] = _flops_within(config)
    with told_to_the_user():
        fit = load_fit(job.fit)
        prediction = predict(fit, U=job.U, inference_tokens=job.inference_tokens, **asked)
    print(prediction_table(prediction, fit.level))
    answer = prediction.to_dict()
    if job.hours is not None or asked["C"] is not None:
        answer["plan"] = _print_plan(config, prediction, fit.count)
    if job.out is not None:
        Path(job.out).parent.mkdir(parents=True, exist_ok=True)
        Path(job.out).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return 0


def _flops_within(config: Config) -> float:
    """FLOPs of job.hours on job.device, or on this machine, measured."""
    from jaxlm.plan import device_flops, measured_flops

    job = config.job
    if not job.hours > 0:
        raise UserError(f"job.hours={job.hours} must be above 0.")
    if not 0 < job.mfu <= 1:
        raise UserError(f"job.mfu={job.mfu} must lie above 0 and at most at 1.")
    if job.device is None:
        rate = measured_flops(config.precision)
        print(f"this machine: {rate:.3g} FLOP/s in {config.precision}, measured")
    else:
        rate = device_flops(job.device, mfu=job.mfu)
        print(f"{job.device}: {rate:.3g} FLOP/s in bfloat16, {job.mfu:.0%} of its peak")
    return rate * job.hours * 3600


def _print_plan(config: Config, prediction: Any, count: str) -> list[str]:
    """The advice for the predicted N and D, as lines; none where the law has no optimum."""
    from jaxlm.plan import plan

    if "N" not in prediction.values:
        return []
    size, tokens = prediction.values["N"][0], prediction.values["D"][0]
    try:
        lines = plan(size, tokens, device=config.job.device).lines()
    except UserError as error:
        lines = [f"no plan: {error}"]
    if count == "total":
        lines.append("note: the fit's N counts embeddings; the plan takes it as without them")
    print("\nA run of this size:\n" + "\n".join(lines))
    return lines
