"""Whole sessions a second through the embedded platform, each a no-op process: HTTP in, exit recorded."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time

from platform_ import Platform, a_platform

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 600
THREADS = 4


def upload(platform: Platform) -> str:
    """Store a folder with one empty shell script; its tree's digest."""
    content = b""
    file = {"path": "main.sh", "bytes": 0, "sha256": hashlib.sha256(content).hexdigest(), "executable": False}
    tree = json.dumps({"files": [file]}).encode()
    pack = b"".join(hashlib.sha256(b).digest() + len(b).to_bytes(8, "little") + b for b in (content, tree))
    platform.ask(platform.connect(), "POST", "/v1/blobs", pack)
    return hashlib.sha256(tree).hexdigest()


def submit(platform: Platform, code: str, count: int) -> None:
    connection = platform.connect()
    body = json.dumps({"body": {"code": code, "entry": "main.sh", "request": {"gpus": 0}}}).encode()
    for _ in range(count):
        platform.ask(connection, "POST", "/v1/commands/session.run", body)


def main() -> None:
    with a_platform() as platform:
        code = upload(platform)
        submit(platform, code, 4)
        began = time.monotonic()
        threads = [
            threading.Thread(target=submit, args=(platform, code, COUNT // THREADS)) for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        accepted = time.monotonic() - began
        connection = platform.connect()
        while True:
            status = platform.ask(connection, "GET", "/v1/status")
            if not status["queued"] and not status["running"]:
                break
            time.sleep(0.1)
        took = time.monotonic() - began
        rows = platform.ask(connection, "GET", f"/v1/sessions?all=1&limit={COUNT + 10}")
    completed = sum(row["status"] == "completed" for row in rows)
    print(f"{COUNT} sessions accepted in {accepted:.1f} s, done in {took:.1f} s, {completed - 4} completed")
    print(f"{COUNT / took:.0f} sessions/s (aim: >= 100)")


if __name__ == "__main__":
    main()
