"""Running code as a session, and going on with one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nsml import settings
from nsml.core.errors import BadInput
from nsml_cli import ignore, pack, render, transfer, typed
from nsml_cli.commands.sessions import Session
from nsml_cli.shell import Shell
from nsml_cli.stay import Waiting, stay

Wait = Annotated[bool, typer.Option("--wait", help="Until it ended; the exit code tells how.")]
Timeout = Annotated[str, typer.Option("--timeout", help="Wait at most so long (10m, 1h).", metavar="TIME")]
Propagate = Annotated[bool, typer.Option("--propagate", help="Exit by the program's own code (with --wait).")]


def run(  # noqa: PLR0913 the flags of the original and ours, each an argument as typer wants them
    shell: Shell,
    rest: list[str],
    *,
    entry_file: Annotated[str, typer.Argument(help="The same as -e.", metavar="ENTRY")] = "",
    entry: Annotated[
        str, typer.Option("--entry", "-e", help="The file to start; its folder is uploaded.", metavar="FILE")
    ] = "",
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", "-d", help="NAME or NAME@V; repeatable.", metavar="NAME")
    ] = None,
    args: Annotated[
        list[str] | None,
        typer.Option("--args", "-a", help="Arguments, quoted as in a shell.", metavar="ARGS"),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", "-g", min=0, help="GPUs: 1, or 0 where no node has any.", metavar="N"),
    ] = None,
    cpus: Annotated[
        float, typer.Option("--cpus", "-c", min=0, help="CPU cores to reserve.", metavar="N")
    ] = 0,
    memory: Annotated[
        str, typer.Option("--memory", help="Reserve, and allow no more, such as 24G.", metavar="SIZE")
    ] = "",
    shm_size: Annotated[
        str, typer.Option("--shm-size", help="Shared memory, such as 1G.", metavar="SIZE")
    ] = "",
    nodes: Annotated[
        int, typer.Option("--nodes", "-n", min=1, help="Nodes, each with all of these.", metavar="N")
    ] = 1,
    gpu_model: Annotated[str, typer.Option("--gpu-model", help="Such as A100.", metavar="MODEL")] = "",
    memo: Annotated[str, typer.Option("--memo", "-m", help="Shown as its description.", metavar="TEXT")] = "",
    image: Annotated[
        str, typer.Option("--image", help="Instead of the line '#nsml: IMAGE'.", metavar="IMAGE")
    ] = "",
    env: Annotated[
        list[str] | None, typer.Option("--env", help="A variable for the session; repeatable.", metavar="K=V")
    ] = None,
    priority: Annotated[int, typer.Option("--priority", help="Higher ones run first.", metavar="N")] = 0,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Tries after a failure.", metavar="N")] = 0,
    max_time: Annotated[
        str, typer.Option("--max-time", help="2s, 10m, 1h: then it ends.", metavar="TIME")
    ] = "",
    strict_env: Annotated[
        bool, typer.Option("--strict-env", help="Fail when a requirement cannot be installed.")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Show the log here, remove the session at its end.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = "",
    propagate: Propagate = False,
    no_queue: Annotated[bool, typer.Option("--no-queue", help="Rather fail than wait for room.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Come back at once, on a terminal, too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and where it would run.")
    ] = False,
    show_ignored: Annotated[
        bool, typer.Option("--show-default-nsmlignore", help="What is never uploaded, and exit.")
    ] = False,
    show_limits: Annotated[bool, typer.Option("--show-limits", help="Of an upload, and exit.")] = False,
    hide_client_log: Annotated[bool, typer.Option("--hide-client-log", help="Print less.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", hidden=True)] = False,
    nfs_output: Annotated[bool, typer.Option("--nfs-output", hidden=True)] = False,
    gpu_driver_version: Annotated[str, typer.Option("--gpu-driver-version", hidden=True)] = "",
) -> int | None:
    """Run the code of the entry file's folder as a session. What follows -- goes to the program.

    Files that match a line of .nsmlignore stay here. On a terminal the start is shown; the session goes on
    without this command.

    Example:
      $ nsml run -d mnist -e main.py -g 1 -a "--lr 0.1"
      $ nsml run main.py -g 0 --wait -- --epochs 3
      $ nsml run -i -g 0
    """
    if show_ignored or show_limits:
        _show(shell, show_ignored)
        return None
    if entry_file and entry and entry_file != entry:
        raise BadInput(f"Two entry files are named: {entry} and {entry_file}.", hint="Leave one out.")
    folder, file = typed.entry_of(entry or entry_file or "main.py")
    body: dict[str, Any] = {
        "dataset": dataset or [],
        "entry": file,
        "args": [word for text in args or [] for word in typed.arguments(text)] + rest,
        "image": image or typed.image_of(folder),
        "priority": priority,
        "retries": retries,
        "max_seconds": typed.duration(max_time) if max_time else 0.0,
        "env": typed.variables(env or []),
        "strict_env": strict_env,
        "memo": memo,
        "no_queue": no_queue,
        "interactive": interactive,
        "command": typed.command(sys.argv[1:]),
    }
    request = {
        "cpus": cpus,
        "memory": settings.parse_size(memory) if memory else 0,
        "shm": settings.parse_size(shm_size) if shm_size else 0,
        "nodes": nodes,
        "gpu_model": gpu_model,
    }
    waiting = Waiting(
        wait=wait or bool(timeout),
        timeout=typed.duration(timeout) if timeout else None,
        propagate=propagate,
        interactive=interactive,
        no_queue=no_queue,
        detach=detach,
    )
    if nfs_output or gpu_driver_version:
        shell.say("--nfs-output and --gpu-driver-version have no effect on this platform.")
    found = _packed(shell, folder, file, hide_client_log)
    body["environment"] = typed.environment(folder, [one.path for one in found], body["image"])
    body["request"] = {**request, "gpus": _gpus(shell, gpus)}
    body["code"] = transfer.upload(shell, found)[1]
    if dry_run:
        _plan(shell, body, found)
        return None
    answer = shell.api.command("session.run", **body)
    return stay(shell, answer["session"], str(answer.get("status")), waiting)


def _show(shell: Shell, ignored: bool) -> None:
    if ignored:
        lines = list(ignore.BUILT_IN)
        if shell.json:
            shell.document(lines)
        else:
            shell.write(lines)
        return
    limits = settings.load()
    if shell.json:
        shell.document({"files": limits.upload_files, "bytes": limits.upload_bytes})
    else:
        shell.show(
            f"An upload has at most {limits.upload_files} files and {render.size(limits.upload_bytes)}."
        )


def _packed(shell: Shell, folder: Path, file: str, quiet: bool) -> list[pack.Found]:
    limits = settings.load()
    found = pack.code(folder, limits.upload_files, limits.upload_bytes, shell.say)
    if not any(one.path == file for one in found):
        raise BadInput(
            f"The entry file {file} is not among what is sent: it is ignored, or a link out of its folder.",
            hint=f"A line '!{file}' in {ignore.FILE} brings back what is ignored.",
        )
    if not quiet:
        shell.say(
            f"Packed {render.count(len(found), 'file')}, {render.size(sum(one.bytes for one in found))}"
        )
    for one in found:
        shell.detail(f"  {one.path} {render.size(one.bytes)}")
    return found


def _gpus(shell: Shell, asked: int | None) -> int:
    """The GPUs asked for; without a wish 1, but 0 on a platform that has none at all."""
    if asked is not None:
        return asked
    if int(shell.api.get("/v1/status").get("gpus") or 0):
        return 1
    shell.say("No node has a GPU: this session runs without one. Say -g 0 to have it so in silence.")
    return 0


def _plan(shell: Shell, body: dict[str, Any], found: list[pack.Found]) -> None:
    answer = shell.api.post("/v1/plan", body)
    paths, total = [one.path for one in found], sum(one.bytes for one in found)
    if shell.json:
        shell.document({**answer, "files": paths, "bytes": total})
        return
    more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
    shell.show(
        f"Would send {render.count(len(found), 'file')}, {render.size(total)}: {', '.join(paths[:10])}{more}"
    )
    name = answer.get("session_would_be") or "the session"
    if answer.get("fits"):
        shell.show(f"Would run {name} on {answer.get('node')} at once.")
    else:
        shell.show(f"Would queue {name}: {answer.get('reason') or 'there is no room now'}")


def resume(
    shell: Shell,
    session: Session,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", help="Not from the latest, but this one.", metavar="CKPT"),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = "",
    propagate: Propagate = False,
) -> int | None:
    """Queue an ended session again under its own name, from its last checkpoint.

    The program gets --pause 1 --iteration CKPT and loads it in nsml.paused(); its log goes on.

    Example:
      $ nsml resume 12
      $ nsml resume -c best --wait alice/mnist/12
    """
    name = shell.api.session(session)
    given = {"iteration": checkpoint} if checkpoint is not None else {}
    answer = shell.api.command("session.resume", session=name, **given)
    seconds = typed.duration(timeout) if timeout else None
    waiting = Waiting(wait=wait or bool(timeout), timeout=seconds, propagate=propagate, detach=True)
    return stay(shell, name, str(answer.get("status")), waiting)
