"""From `nsml run` typed to the first line of the user's program, against `python main.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from platform_ import a_platform

ROUNDS = 15
SCRIPT = "import time; print('AT', time.time(), flush=True)\n"


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="nsml-bench-code-"))
    (folder / "main.py").write_text(SCRIPT)
    bare, through = [], []
    with a_platform() as platform:
        platform.nsml("run", "-g", "0", "--wait", cwd=folder)
        for _ in range(ROUNDS):
            began = time.time()
            out = subprocess.run(
                [sys.executable, "main.py"], cwd=folder, capture_output=True, text=True, check=True
            )
            bare.append(float(out.stdout.split()[1]) - began)
            began = time.time()
            said = platform.nsml("run", "-g", "0", "--wait", cwd=folder).stdout
            session = said.split("Session ")[1].split()[0]
            through.append(float(platform.nsml("logs", session).stdout.split("AT ")[1].split()[0]) - began)
    one, other = statistics.median(bare), statistics.median(through)
    print(f"python main.py   first line after {one * 1000:6.0f} ms (p50 of {ROUNDS})")
    print(
        f"nsml run         first line after {other * 1000:6.0f} ms, {other - one:.3f} s more (aim: <= 0.8 s)"
    )


if __name__ == "__main__":
    main()
