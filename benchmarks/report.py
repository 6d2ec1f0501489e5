"""What `nsml.report()` costs, and whether `kill -9` loses any: `python benchmarks/report.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MEASURE = """
import sys, time
import nsml
calls = int(sys.argv[1])
clock = time.perf_counter_ns
for i in range(2_000):
    nsml.report(step=i, warm=1.0, up=2.0, phase=3.0)
took = [0] * calls
for i in range(calls):
    began = clock()
    nsml.report(step=i, loss=0.5, accuracy=0.9, lr=0.1)
    took[i] = clock() - began
took.sort()
print(took[calls // 2], took[calls * 99 // 100], took[-1], sum(took) // calls)
"""

DIE = """
import os, signal, sys
import nsml
for i in range(int(sys.argv[1])):
    nsml.report(step=i, loss=0.5, accuracy=0.9, lr=0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def session(code: str, calls: int, spool: Path) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ, PYTHONPATH=str(ROOT), NSML_SESSION="bench/None/1", NSML_SPOOL=str(spool))
    return subprocess.run(
        [sys.executable, "-c", code, str(calls)], env=env, capture_output=True, text=True, check=False
    )


def main(calls: int) -> int:
    sys.path.insert(0, str(ROOT))
    from nsml.core import outbox

    with tempfile.TemporaryDirectory() as folder:
        measured = session(MEASURE, calls, Path(folder) / "a")
        p50, p99, worst, mean = (int(word) for word in measured.stdout.split())
        died = session(DIE, calls, Path(folder) / "b")
        records, _, _ = outbox.read((Path(folder) / "b" / "outbox").read_bytes(), {})
    kept = sum(isinstance(record, outbox.Report) for record in records)
    print(f"nsml.report, 3 scalars, {calls} calls:")
    print(f"  p50 {p50 / 1000:.2f} µs (promised: 2)   p99 {p99 / 1000:.2f} µs (promised: 15)")
    print(f"  mean {mean / 1000:.2f} µs   worst {worst / 1000:.0f} µs")
    print(f"  after SIGKILL: {kept} of {calls} reports kept")
    good = died.returncode == -signal.SIGKILL and kept == calls and p50 <= 2_000 and p99 <= 15_000
    print("promise kept" if good else "PROMISE BROKEN")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
