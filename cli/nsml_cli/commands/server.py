"""The platform itself: start, end, look."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from nsml.core.errors import NsmlError, Refused, Unavailable
from nsml_cli import local, profile, render
from nsml_cli.client import Client
from nsml_cli.profile import Where
from nsml_cli.shell import Shell

STOP_SECONDS = 60.0  # for all sessions to end: each has 10 s to save, then it is killed


def up(
    shell: Shell,
    detach: Annotated[bool, typer.Option("--detach", help="In the background.")] = False,
    roles: Annotated[str, typer.Option("--roles", help="Only these, by commas.", metavar="R,R")] = "",
) -> None:
    """Run a platform on this machine, in this terminal until Ctrl-C or, with --detach, in the background.

    Other commands start one by themselves when there is none; sessions outlive it.

    Example:
      $ nsml up --detach
      $ nsml up --roles api,scheduler
    """
    from nsml.app import parse_roles

    chosen = parse_roles(roles) if roles else ()
    if detach:
        platform = local.up(chosen)
        if shell.json:
            shell.document({"api": platform.api or None, "pid": platform.pid})
        else:
            shell.show(f"The platform runs at {platform.api or '(no API)'} (pid {platform.pid}).")
        return
    holder = local.pid()
    if holder is not None:
        raise local.runs_already(holder)
    words = local.command(chosen)
    os.execv(words[0], words)


def down(
    shell: Shell,
    all_: Annotated[bool, typer.Option("--all", help="Stop the sessions, too.")] = False,
) -> None:
    """End the platform of this machine. Running sessions go on, and the next start finds them again.

    Example:
      $ nsml down
      $ nsml down --all
    """
    holder = local.pid()
    if not holder:
        _told(shell, None, 0, f"No platform runs in {profile.home()}.")
        return
    try:
        running = _stop_all(shell) if all_ else _running()
    except NsmlError as error:
        error.hint = (
            f"{error.hint}\nThe platform goes on; 'nsml down' ends it and leaves its sessions.".lstrip()
        )
        raise
    local.end(holder)
    words = f"The platform (pid {holder}) has ended."
    if running:
        go = "1 session goes" if running == 1 else f"{running} sessions go"
        words += f" {go} on; the next start takes over from there."
    _told(shell, holder, running, words)


def _told(shell: Shell, holder: int | None, running: int, words: str) -> None:
    if shell.json:
        shell.document({"pid": holder, "running": running})
    else:
        shell.show(words)


def _api() -> Client | None:
    """The API of the platform that runs here; it is not started for this."""
    platform = local.known()
    if platform is None or not platform.api:
        return None
    return Client(Where(platform.api, profile.home_token() or ""))


def _running() -> int:
    """How many sessions hold resources; 0 when the platform does not say."""
    api = _api()
    if api is None:
        return 0
    try:
        return int(api.get("/v1/status")["running"])
    except NsmlError:
        return 0  # it is to be ended because it does not answer, perhaps
    finally:
        api.close()


def _stop_all(shell: Shell) -> int:
    """Stop every session and wait until they have; 0, the number of those left."""
    api = _api()
    if api is None:
        raise Refused("The platform here has no API, so its sessions cannot be stopped through it.")
    deadline = time.monotonic() + STOP_SECONDS
    asked: set[str] = set()
    while rows := api.rows(limit=100_000):
        for session in [row["session"] for row in rows if row["session"] not in asked]:
            asked.add(session)
            api.command("session.stop", session=session)
            shell.say(f"{session}: stopping")
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{len(rows)} sessions do not end.", hint="See 'nsml ps', 'nsml rm -f SESSION'."
            )
        time.sleep(0.1)
    api.close()
    return 0


def status(shell: Shell) -> None:
    """Show the platform: its address, nodes and GPUs, how much waits and runs, what is wrong.

    Example:
      $ nsml status
    """
    answer = shell.api.get("/v1/status")
    if shell.json:
        shell.document(answer)
        return
    pid = f" (pid {answer['pid']})" if answer.get("pid") else ""
    pairs = {
        "Platform": f"{answer.get('api')}{pid}, version {answer.get('version')}",
        "Roles": ", ".join(answer.get("roles") or []),
        "Leader": f"{answer.get('leader')}, term {answer.get('term')}" if answer.get("leader") else None,
        "Nodes": answer.get("nodes"),
        "GPUs": f"{answer.get('gpus')}, {answer.get('free_gpus')} free" if answer.get("gpus") else "none",
        "Sessions": f"{answer.get('running')} running, {answer.get('queued')} queued",
    }
    warnings = answer.get("warnings") or []
    shell.write([*render.fields(pairs), *(f"Warning: {render.cell(words)}" for words in warnings)])
