"""job=fit and job=predict: `scaling/` behind the command line."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxlm.config.job_options import FitJob, PredictJob
from jaxlm.config.schema import Config
from jaxlm.host.checked import Json
from jaxlm.host.errors import UserError


@contextmanager
def told_to_the_user() -> Iterator[None]:
    """Turns a ScalingError into a UserError."""
    from scaling.errors import ScalingError
    from scaling.records.columns import spelled

    try:
        yield
    except ScalingError as error:
        raise UserError(spelled(str(error), "job.{}=".format)) from None


def fit_job(config: Config, load_engine: object) -> int:
    """job=fit: tables on stdout, fit.json and a report in job.out; 1 if the fit is not sound."""
    job: FitJob = config.job
    if job.records is None:
        raise UserError(
            "job.records is missing: give a CSV, JSON, parquet or npy file of N, D and loss, or a "
            "folder or glob of runs or files."
        )
    from jaxlm.config.compose import cache_folder
    from scaling.optimize import compiled
    from scaling.report import drawing

    drawing.prepare()
    compiled.keep_programs(cache_folder(config))
    from scaling.law.laws import find_law
    from scaling.records.records import read_records
    from scaling.report.analysis import analyse

    with told_to_the_user():
        law = find_law(job.law)
        records = read_records(
            job.records, count=job.count, keep=job.keep, where=job.where, columns=job.columns
        ).respelled("job.{}=".format)
        analysis = analyse(
            records,
            law,
            holdout=job.holdout,
            budgets=job.budgets,
            delta=job.delta,
            resamples=job.bootstrap,
            bootstrap_starts=job.bootstrap_starts,
            fix=job.fix,
        )
        print(analysis.text(), flush=True)  # drawing the figures takes as long again
        print(f"\nreport: {analysis.save(job.out, tell=print)}")
    return 0 if analysis.fit.success else 1


def predict_job(config: Config, load_engine: object) -> int:
    """job=predict: one answer as a table, and as JSON in job.out; job.hours answers with a plan."""
    from scaling.errors import writing
    from scaling.estimate.loading import load_fit
    from scaling.estimate.predict import predict
    from scaling.estimate.tables import prediction_table

    job = config.job
    asked: Json = {name: getattr(job, name) for name in ("N", "D", "C", "target_loss")}
    speed: Json = {"device": job.device}
    if job.device is not None:
        _device_flops(job, job.device)  # refuses an unknown device before anything is printed
        if job.hours is None and job.C is None:
            raise UserError(
                f"job.device={job.device} has no effect: it requires a plan.\n"
                "Give job.hours or job.C, or omit it."
            )
    with told_to_the_user():
        fit = load_fit(job.fit)
    if job.hours is not None:
        taken = [name for name, value in asked.items() if value is not None]
        if taken:
            raise UserError(
                f"job.hours={job.hours} and job.{taken[0]}={asked[taken[0]]} are two questions.\n"
                "Give only one of them."
            )
        rate = _flops_per_second(config)
        speed |= {"mfu": job.mfu} if job.device else {
            "flops_per_second": rate, "precision": config.precision,
        }  # fmt: skip
        with told_to_the_user():
            asked["C"] = _compute_within(rate * job.hours * 3600, fit, job)
    with told_to_the_user():
        prediction = predict(fit, U=job.U, inference_tokens=job.inference_tokens, **asked)
    print(prediction_table(prediction, fit.level))
    answer = prediction.to_dict()
    if job.hours is not None or asked["C"] is not None:
        answer["plan"] = _print_plan(prediction, fit.count, speed)
    if job.out is not None:
        with told_to_the_user(), writing(job.out):
            Path(job.out).parent.mkdir(parents=True, exist_ok=True)
            Path(job.out).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return 0


def _flops_per_second(config: Config) -> float:
    """The speed that job.device reaches, or the measured speed of this machine; printed."""
    from jaxlm.predict.plan import measured_flops

    job = config.job
    if not 0 < job.hours < math.inf:
        raise UserError(f"job.hours={job.hours} must be above 0 and finite.")
    if job.device is None:
        rate = measured_flops(config.precision)
        print(f"this machine: {rate:.3g} FLOP/s in {config.precision}, measured")
    else:
        rate = _device_flops(job, job.device)
        print(f"{job.device}: {rate:.3g} FLOP/s in bfloat16, {job.mfu:.0%} of its peak")
    return rate


def _device_flops(job: PredictJob, device: str) -> float:
    from jaxlm.predict.plan import device_flops

    if not 0 < job.mfu <= 1:
        raise UserError(f"job.mfu={job.mfu} must be above 0 and at most 1.")
    return device_flops(device, mfu=job.mfu)


def _compute_within(flops: float, fit: Any, job: PredictJob) -> float:
    """The largest C (6 N D) whose best run, including head and attention, takes at most `flops`.

    For small models, head and attention are most of the work. If no plan can be made, `flops`.
    """
    from jaxlm.predict.plan import plan
    from jaxlm.spec.flops import exact_flops_per_token
    from scaling.law.allocate import optimal

    if not fit.divides_compute:
        return flops
    unique = job.U or fit.range["U"][1] if "U" in fit.law.variables else None

    def work(C: float) -> float:
        N, D, _ = optimal(
            fit.law, fit.theta, C, inference_tokens=job.inference_tokens, unique=unique
        )
        made = plan(float(N), float(D))
        return C - 6 * float(N * D) + exact_flops_per_token(made.model) * made.tokens

    low, high = math.log(flops) - 7, math.log(flops)
    try:
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if work(math.exp(middle)) <= flops else (low, middle)
    except UserError:
        return flops
    return math.exp(low)


def _print_plan(prediction: Any, count: str, speed: Json) -> list[str]:
    """The advice for the predicted N and D, as lines; none if the law has no optimum."""
    from jaxlm.predict.plan import plan

    if "N" not in prediction.values:
        return []
    size, tokens = prediction.values["N"][0], prediction.values["D"][0]
    try:
        lines = plan(size, tokens, **speed).lines()
    except UserError as error:
        lines = [f"no plan: {error}"]
    if count == "total":
        lines.append("note: the fit's N includes embeddings, but the plan takes N without them")
    print("\nA run of this size:\n" + "\n".join(lines))
    return lines
