"""How fast the built-in corpus is generated and read on one core.

    python benchmarks/stories_speed.py

Prints a table and writes benchmarks/results/stories_speed.json.
"""

import datetime
import json
import os
import platform
import time
from pathlib import Path

from jaxlm.data import stories

RESULTS = Path(__file__).parent / "results" / "stories_speed.json"
MEGABYTES = 20


def main() -> None:
    rows = {}
    begin = time.process_time()
    texts, size = [], 0
    for text in stories.documents(0, 0, 10**9):
        texts.append(text)
        size += len(text)
        if size >= MEGABYTES * 1e6:
            break
    seconds = time.process_time() - begin
    rows["write"] = {"megabytes": size / 1e6, "cpu_seconds": seconds, "stories": len(texts)}

    some = texts[:2000]
    for name, read in (("score", stories.score), ("score_sentences", stories.score_sentences)):
        chosen = some if name == "score" else some[:100]
        read(chosen[0])
        begin = time.process_time()
        for text in chosen:
            read(text)
        seconds = time.process_time() - begin
        size = sum(map(len, chosen))
        rows[name] = {"megabytes": size / 1e6, "cpu_seconds": seconds, "stories": len(chosen)}

    begin = time.process_time()
    nats = stories.entropy()
    entropy_seconds = time.process_time() - begin
    for name, row in rows.items():
        row["megabytes_per_minute"] = row["megabytes"] / row["cpu_seconds"] * 60
        row["stories_per_second"] = row["stories"] / row["cpu_seconds"]
        print(
            f"{name:16s} {row['megabytes_per_minute']:8.1f} MB/min "
            f"{row['stories_per_second']:8.0f} stories/s"
        )
    print(f"entropy          {nats:8.3f} nats per story, computed in {entropy_seconds:.1f} CPU s")
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "one_core": rows,
        "entropy_nats": nats,
        "entropy_cpu_seconds": entropy_seconds,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


def cpu_model() -> str:
    """The processor's name according to the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
