"""Promises of a report's files: pages, figures, corrupt runs, the experiment log, a browser."""

import csv
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_study import heads_study, write_run, write_study

from jaxlm.cli.main import main
from jaxlm.compare.reading import find_runs
from jaxlm.compare.report import write_report
from jaxlm.compare.variants import load
from jaxlm.host.errors import UserError

FIGURES = (
    "training_loss_comparison",
    "final_performance_comparison",
    "efficiency_analysis",
    "convergence_analysis",
    "loss_curves",
    "n_heads_against_loss",
)
SPECIMENS = {
    "prompt": "ROMEO:",
    "settings": {"temperature": 0.8, "top_p": 0.95},
    "models": {
        "4_heads": {
            "samples": [{"text": "ROMEO: <i>what</i> light", "distinct_2": 0.81}],
            "scores": {"distinct_2": 0.8123, "longest_overlap": 14},
        },
        "2_heads": {"samples": [{"text": "ROMEO: but soft"}], "scores": {"distinct_2": 0.7}},
    },
    "scores_legend": {"distinct_2": "share of different pairs of words"},
    "decoding": [
        {"variant": "4_heads", "temperature": 0.3, "top_p": 0.9, "text": "soft", "repetition": 0.5}
    ],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a study with its report written into it."""
    folder = heads_study(tmp_path_factory.mktemp("studies") / "heads")
    path = write_report(folder, folder, specimens=lambda runs, out: SPECIMENS)
    assert path == folder / "research_report.md"
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """For tests of pages only, since drawing takes seconds."""
    monkeypatch.setattr("jaxlm.compare.figures.all.draw", lambda comparison, folder: {})


def text_of(folder: Path, ending: str = "md") -> str:
    return (folder / f"research_report.{ending}").read_text("utf-8")


# -- the files -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_report_has_all_its_files(report):
    for name in ("research_data.json", "performance_metrics.csv", "research_report.html"):
        assert (report / name).stat().st_size > 500
    for name in FIGURES:
        for kind in ("png", "svg"):
            assert (report / "figures" / f"{name}.{kind}").stat().st_size > 2000
    text = text_of(report)
    for link in re.findall(r"\]\((figures/.*?)\)", text):
        assert (report / link).exists()
    assert len(re.findall(r"!\[", text)) == len(FIGURES)


@pytest.mark.slow
def test_the_page_answers_the_question_first(report):
    lines = text_of(report).splitlines()
    assert lines[0] == "# Do 2 heads beat 4?"
    assert "**8_heads** has the best mean" in lines[2]
    assert "no difference that 3 seeds can show: 2_heads" in lines[2]


def test_the_page_holds_claims_reported_figures_and_how_to_run_it_again(report):
    text = text_of(report)
    assert "| 2 heads beat 4 | **cannot be told** with 3 seeds |" in text
    assert "| 8 heads beat 4 | **holds** |" in text
    assert "| 2 heads train 44 % faster | **does not hold** |" in text
    assert "| 4_heads | best validation loss (nats/token) | 2.003 ± 0.112 | 1.4904 |" in text
    assert "```sh\npython run.py experiment=shakespeare_heads scale=cpu\n```" in text
    for fact in ("cpu:0, Linux-test", "jax 0.10.2", "abc123", "2026-03-01 10:00", "12, 1,950"):
        assert fact in text
    assert "diverged (loss is nan at step 50)" in text
    assert str(report) not in text  # paths are relative to the study, wherever it is copied to


def test_the_table_of_metrics_has_a_row_for_each_run_and_variant(report):
    rows = list(csv.DictReader((report / "performance_metrics.csv").open()))
    assert [row["row"] for row in rows] == ["run"] * 12 + ["variant"] * 4
    mean = next(row for row in rows if row["row"] == "variant" and row["variant"] == "4_heads")
    runs = [row for row in rows if row["row"] == "run" and row["variant"] == "4_heads"]
    by_hand = sum(float(row["val_loss"]) for row in runs) / 3
    assert float(mean["val_loss"]) == pytest.approx(by_hand)
    assert float(mean["val_loss_ci95"]) > 0.1 and mean["seeds"] == "3"
    lost = next(row for row in rows if row["row"] == "variant" and row["variant"] == "1_head")
    assert lost["val_loss"] == "" and lost["status"] == "3 diverged"


def test_specimens_are_shown_with_their_scores(report):
    text = text_of(report)
    assert "| 4_heads | 0.812 | 14 |" in text and "| 2_heads | 0.7 | – |" in text
    assert "share of different pairs of words" in text
    assert "ROMEO: <i>what</i> light" in text
    assert "ROMEO: &lt;i&gt;what&lt;/i&gt; light" in text_of(report, "html")
    assert "1 settings side by side" in text and "| 4_heads | 0.3 | 0.9 | 0.5 | soft |" in text
    assert json.loads((report / "research_data.json").read_text())["specimens"] == SPECIMENS


@pytest.mark.slow
def test_the_same_study_gives_the_same_files(report, tmp_path):
    shutil.copytree(report, tmp_path / "heads")
    write_report(tmp_path / "heads", tmp_path / "again", specimens=lambda runs, out: SPECIMENS)
    names = ("research_report.md", "research_report.html", "performance_metrics.csv")
    for name in (*names, "research_data.json", "figures/loss_curves.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes(), name


def test_without_specimens_the_runs_own_texts_are_shown(tmp_path, no_figures):
    study = write_study(
        tmp_path / "s", {"a": [2.0], "b": [2.1]}, runs={"a": {"samples": ["x\n```\n# y", "z"]}}
    )
    write_report(study, tmp_path / "out")
    assert "````text\nx\n```\n# y\n````" in text_of(tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "generation_comparison.csv").open()))
    assert [row["text"] for row in rows] == ["x\n```\n# y", "z"]
    assert "Texts" in text_of(tmp_path / "out", "html")


def test_a_repeated_report_keeps_the_measured_texts(tmp_path, no_figures):
    study = heads_study(tmp_path / "s")

    def measure(runs, out):
        (out / "generation_comparison.csv").write_text("measured\n")
        return SPECIMENS

    write_report(study, study, specimens=measure)
    write_report(study, study)
    assert (study / "generation_comparison.csv").read_text() == "measured\n"
    assert "| 4_heads | 0.812 | 14 |" in text_of(study)
    summary = study / "4_heads" / "seed0" / "summary.json"  # retrained since then
    os.utime(summary, (later := summary.stat().st_mtime + 3600, later))
    write_report(study, study)
    assert (study / "generation_comparison.csv").read_text() != "measured\n"
    assert "| 4_heads | 0.812 | 14 |" not in text_of(study)


def test_failing_specimens_do_not_stop_the_report(tmp_path, capsys, no_figures):
    def fail(runs, out):
        raise UserError("no checkpoint")

    study = write_study(tmp_path / "s", {"a": [2.0]})
    write_report(study, tmp_path / "out", specimens=fail)
    assert "warning: no specimens: no checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_one_run_alone_has_a_report(tmp_path):
    write_report([write_run(tmp_path / "r")], tmp_path / "out")
    assert "over 1 seed." in text_of(tmp_path / "out")


def test_a_study_that_only_diverged_says_so(tmp_path):
    study = write_study(tmp_path / "s", {"a": [None], "b": [None]})
    write_report(study, tmp_path / "out")
    assert "No run has finished" in text_of(tmp_path / "out")
    assert "diverged (loss is nan at step 50)" in text_of(tmp_path / "out")


def test_a_study_whose_other_variant_diverged_has_a_report(tmp_path, no_figures):
    write_report(write_study(tmp_path / "s", {"a": [2.0], "b": [None]}), tmp_path / "out")
    assert "diverged (loss is nan at step 50)" in text_of(tmp_path / "out")


# -- corrupt and unfinished runs -----------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "no config": lambda run: (run / "config.yaml").unlink(),
    "half a config": lambda run: (run / "config.yaml").write_text("seed: 0\nmodel: {"),
    "another config": lambda run: (run / "config.yaml").write_text("- a\n- list\n"),
    "binary config": lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00\x80"),
    "no summary": lambda run: (run / "summary.json").unlink(),
    "half a summary": lambda run: cut(run / "summary.json"),
    "empty summary": lambda run: (run / "summary.json").write_text("{}"),
    "summary is a list": lambda run: (run / "summary.json").write_text("[]"),
    "no records": lambda run: (run / "metrics.jsonl").unlink(),
    "broken record": lambda run: (run / "metrics.jsonl").write_text('{"kind"\n{"step": 1}\n'),
    "no record": lambda run: (run / "metrics.jsonl").write_text("[1, 2]\n"),
    "record without numbers": lambda run: (run / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 5, "loss": "low"}\n'
    ),
    "from the future": lambda run: (run / "environment.json").write_text('{"format_version": 99}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_run_among_many_is_named_and_skipped(damage, tmp_path):
    changes = {"b": {"model.n_heads": 2}}
    study = write_study(tmp_path / "s", {"a": [2.0, 2.1], "b": [1.9, 2.0]}, changes=changes)
    DAMAGE[damage](study / "b" / "seed1")
    found = load(study)
    assert len(found.runs) == 3
    assert [left.path for left in found.left_out] == [study / "b" / "seed1"]
    loose = load(find_runs(str(tmp_path)))
    assert len(loose.runs) == 3 and len(loose.left_out) == 1
    assert loose.left_out[0].reason and "\n" not in loose.left_out[0].reason


def test_a_report_with_a_corrupt_run_succeeds_with_a_warning_line(tmp_path, capsys, no_figures):
    study = write_study(tmp_path / "s", {"a": [2.0, 2.1], "b": [1.9, 2.0]})
    cut(study / "b" / "seed1" / "summary.json")
    assert main(["job=report", f"job.runs={study}"]) == 0
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert err.startswith(f"warning: {study / 'b' / 'seed1'} is skipped: ")
    assert str(study / "research_report.md") in out
    assert "`b/seed1`: cannot read" in text_of(study)


def test_unfinished_runs_are_skipped_with_their_reason(tmp_path):
    study = write_study(tmp_path / "s", {"a": [2.0], "b": [1.9], "c": [2.2]})
    summary = json.loads((study / "b/seed0/summary.json").read_text())
    (study / "b/seed0/summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    shutil.rmtree(study / "c")
    content = json.loads((study / "study.json").read_text())
    content["runs"][2] |= {"status": "failed", "reason": "out of memory"}
    (study / "study.json").write_text(json.dumps(content))
    reasons = [left.reason for left in load(study).left_out]
    assert reasons == ["not finished: interrupted", "failed, out of memory"]


def test_runs_are_reported_despite_a_broken_study_file(tmp_path):
    study = write_study(
        tmp_path / "s", {"a": [2.0], "b": [1.9]}, changes={"b": {"model.n_heads": 2}}
    )
    cut(study / "study.json")
    found = load(study)
    assert len(found.runs) == 2 and "study.json" in found.left_out[0].reason


def test_without_runs_the_error_says_what_to_name(tmp_path, capsys):
    assert main(["job=report", f"job.runs={tmp_path}/**"]) == 2
    assert "no runs found" in capsys.readouterr().err
    assert main(["job=report"]) == 2
    assert "job.runs is missing" in capsys.readouterr().err


# -- loose runs ----------------------------------------------------------------------------------


def test_loose_runs_are_named_by_the_keys_in_which_they_differ(tmp_path):
    for lr in (1e-2, 1e-3):
        for seed in (0, 1):
            changes = {"optimizer.lr": lr}
            write_run(tmp_path / f"tiny,optimizer.lr={lr},seed={seed}", seed=seed, changes=changes)
    found = load(find_runs(str(tmp_path / "tiny,*")))
    assert found.variants == ["lr=0.001", "lr=0.01"]
    assert [run.seed for run in found.of("lr=0.01")] == [0, 1]


def test_names_keep_as_much_of_a_key_as_tells_it_apart(tmp_path):
    for i, (name, schedule) in enumerate((("adamw", "cosine"), ("lion", "wsd"))):
        changes = {"optimizer.name": name, "schedule.name": schedule}
        write_run(tmp_path / str(i), changes=changes)
    assert load(find_runs(str(tmp_path))).variants == [
        "optimizer=adamw, schedule=cosine",
        "optimizer=lion, schedule=wsd",
    ]


def test_the_same_configuration_and_seed_twice_counts_once(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    found = load(find_runs(str(tmp_path)))
    assert len(found.runs) == 1 and str(tmp_path / "a") in found.left_out[0].reason


def test_a_run_from_before_a_key_existed_has_its_default(tmp_path):
    old, new = write_run(tmp_path / "old"), write_run(tmp_path / "new", seed=1)
    text = (old / "config.yaml").read_text()
    (old / "config.yaml").write_text(re.sub(r"  qk_norm: .*\n", "", text))
    assert load([old, new]).variants == ["tiny"]


def test_a_glob_finds_runs_inside_studies_and_folders_but_not_inside_runs(tmp_path):
    study = write_study(tmp_path / "runs" / "s", {"a": [2.0]})
    loose = write_run(tmp_path / "runs" / "with [brackets]")
    write_run(loose / "checkpoints" / "copy")
    wanted = {study / "a" / "seed0", loose}
    for pattern in ("runs", "runs/**", "runs/**/*", "runs/*", "*"):
        assert set(find_runs(str(tmp_path / pattern))) == wanted, pattern
    assert find_runs(str(loose)) == [loose]


# -- the experiment log --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs/ with a study, a sweep, an interrupted run and a corrupt one."""
    folder = tmp_path_factory.mktemp("log") / "runs"
    write_study(folder / "s", {"a": [2.0], "b": [1.9]}, definition={"question": "Is b better?"})
    for day, lr in ((2, 1e-3), (4, 1e-2)):
        time = f"2026-03-0{day}T10:00:00+0000"
        write_run(folder / f"lr{lr}", 1.7 + lr, changes={"optimizer.lr": lr}, time=time)
    path = write_run(folder / "broken_off", 1.5, time="2026-03-03T10:00:00+0000")
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    cut(write_run(folder / "corrupt") / "summary.json")
    return folder


def log_rows(folder: Path) -> list[list[str]]:
    lines = text_of(folder).split("## Runs")[1].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]


def test_the_log_lists_every_run_newest_first(runs, tmp_path, capsys):
    assert main(["job=report", f"job.runs={runs}/**", f"job.out={tmp_path}"]) == 0
    rows = log_rows(tmp_path)
    days = [row[0] for row in rows]
    assert days[0] == "2026-03-04 10:00" and days == sorted(days, reverse=True)
    assert len(rows) == 5
    assert rows[0][1].startswith("tiny, optimizer.lr=0.01")
    assert rows[1][2] == "interrupted" and rows[1][3] == "0:06"
    assert {row[1] for row in rows[3:]} == {"Is b better? a, seed 0", "Is b better? b, seed 0"}
    assert "6.14e+10" in rows[0]
    assert "corrupt is skipped" in capsys.readouterr().err
    assert "| s | 2 of 2 | 1.9000 | Is b better? b, seed 0 |" in text_of(tmp_path)


@pytest.mark.parametrize("metric", ["best_val_loss", "tokens_per_second", "optimizer"])
def test_the_log_is_sorted_by_any_metric_best_first(metric, runs, tmp_path, capsys):
    words = ["job=report", f"job.runs={runs}/**", f"job.out={tmp_path}", f"job.sort={metric}"]
    if metric == "optimizer":
        assert main(words) == 2 and "there is no such metric" in capsys.readouterr().err
        return
    assert main(words) == 0
    data = json.loads((tmp_path / "research_data.json").read_text())
    values = [run["metrics"][metric] for run in data["runs"]]
    assert values == sorted(values, reverse=metric != "best_val_loss") and len(values) == 5


def test_loose_runs_are_compared_or_logged_as_requested(runs, tmp_path, capsys, no_figures):
    words = ["job=report", f"job.out={tmp_path}"]
    assert main([*words, f"job.runs={runs}/lr*", "job.baseline=lr=0.01"]) == 0
    assert "lr=0.01   " in capsys.readouterr().out
    assert "| lr=0.01 | 1.7100 | 1 | – | – | – | baseline |" in text_of(tmp_path)
    assert main([*words, f"job.runs={runs}/lr*", "job.kind=log"]) == 0
    assert text_of(tmp_path).startswith("# Experiment log")


# -- a real browser ------------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROBE = """<script>addEventListener("load", () => {
for (const one of document.querySelectorAll("details")) one.open = true;
const root = document.documentElement, images = [...document.images];
document.title = JSON.stringify({
  overflow: root.scrollWidth - root.clientWidth, width: root.clientWidth, images: images.length,
  broken: images.filter(i => !i.complete || i.naturalWidth < 100 || !i.alt).length,
  wide: [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, img, svg")
    && e.getBoundingClientRect().right > root.clientWidth + 1).length})});</script></body>"""


def looked_at(page: Path, width: int, tmp_path: Path) -> dict:
    """What a headless Chromium reports about the page at this width, with all details open."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)})")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text("utf-8").replace("</body>", PROBE), encoding="utf-8")
    options = f"--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --dump-dom \
        --virtual-time-budget=3000 --window-size={width},768 --user-data-dir={tmp_path / 'user'}"
    done = subprocess.run(
        [browser, *options.split(), probed.as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-2000:]
    return json.loads(html.unescape(title[1]))


@pytest.mark.parametrize("width", [1366, 800])
def test_a_browser_shows_the_report_whole(report, width, tmp_path):
    seen = looked_at(report / "research_report.html", width, tmp_path)
    assert seen["images"] == len(FIGURES) and seen["broken"] == 0
    assert seen["width"] > width - 30 and seen["overflow"] == 0 and seen["wide"] == 0


def test_a_browser_shows_the_log_whole(runs, tmp_path):
    main(["job=report", f"job.runs={runs}/**", f"job.out={tmp_path}"])
    seen = looked_at(tmp_path / "research_report.html", 1366, tmp_path)
    assert seen["overflow"] == 0 and seen["wide"] == 0


def test_the_page_is_self_contained(report):
    text = text_of(report, "html")
    addresses = re.findall(r'(?:src|href)="(.{0,30})', text) + re.findall(r"url\((.{0,30})", text)
    assert addresses and all(a.startswith("data:image/svg+xml;base64,") for a in addresses)
    assert "@import" not in text and "http" not in re.sub(r"base64,[^\"]*", "", text)
