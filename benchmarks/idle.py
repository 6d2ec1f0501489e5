"""What an idle platform costs: resident memory and CPU of all its processes, over half a minute."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from platform_ import Platform, a_platform, settle

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0


def used(platform: Platform) -> tuple[float, float]:
    """(CPU seconds, resident MiB) of the platform's processes together."""
    cpu = memory = 0.0
    for pid in platform.processes():
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        cpu += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        memory += sum(int(line.split()[1]) for line in lines if line.startswith("Rss:")) / 1024
    return cpu, memory


def main() -> None:
    with a_platform() as platform:
        settle(5)
        before, _ = used(platform)
        time.sleep(SECONDS)
        after, memory = used(platform)
    print(f"{(after - before) / SECONDS:.2%} of a core (aim: 0.5 %), {memory:.0f} MiB resident (aim: 120)")


if __name__ == "__main__":
    main()
