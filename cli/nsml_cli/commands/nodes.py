"""Nodes and their GPUs."""

from __future__ import annotations

from typing import Annotated

import typer

from nsml_cli import render
from nsml_cli.commands.sessions import Output, Watch
from nsml_cli.shell import Shell

Node = Annotated[str, typer.Argument(help="The node's name.", metavar="NODE")]

NODES: dict[str, render.Cell] = {
    "Node": lambda row: row["node"],
    "Status": lambda row: row["status"],
    "GPUs": lambda row: f"{row.get('free_gpus') or 0}/{row['gpus']} free" if row.get("gpus") else "none",
    "CPUs": lambda row: render.number(float(row.get("cpus") or 0)),
    "Memory": lambda row: render.size(row.get("memory")),
    "Sessions": lambda row: _count(row.get("sessions")),
    "Last Seen": lambda row: render.ago(row.get("last_seen")),
}
NODES_WIDE: dict[str, render.Cell] = {
    "Load": lambda row: _percent(row.get("cpu_percent")),
    "Used Memory": lambda row: render.size(row.get("memory_used")),
    "Free Disk": lambda row: render.size(row.get("disk_free")),
    "Version": lambda row: row.get("version") or "",
    "Reason": lambda row: row.get("reason") or "",
}
GPUS: dict[str, render.Cell] = {
    "Node": lambda row: row["node"],
    "GPU": lambda row: str(row["index"]),
    "Name": lambda row: row.get("name") or "",
    "Load": lambda row: _percent(row.get("utilization")),
    "Memory": lambda row: _memory(row.get("memory_used"), row.get("memory_total")),
    "Temp": lambda row: "" if row.get("temperature") is None else f"{row['temperature']:.0f} °C",
    "Power": lambda row: "" if row.get("power") is None else f"{row['power']:.0f} W",
    "Session": lambda row: row.get("session") or "",
    "User": lambda row: row.get("user") or "",
}
GPUS_WIDE: dict[str, render.Cell] = {
    "UUID": lambda row: row.get("uuid") or "",
    "Health": lambda row: "bad" if row.get("healthy") is False else "good",
}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}%"


def _memory(used: float | None, total: float | None) -> str:
    return "" if used is None and total is None else f"{render.size(used)} / {render.size(total)}"


def _count(value: object) -> str:
    return str(len(value) if isinstance(value, list) else value or 0)


def ls(shell: Shell, output: Output = "table", watch: Watch = False) -> None:
    """List the nodes of the platform: state, what they have, what is free.

    Example:
      $ nsml node ls
      $ nsml node ls -o wide
    """

    def show() -> None:
        shell.listing(shell.api.get("/v1/nodes"), NODES, name="node", output=output, wide=NODES_WIDE)

    shell.watched(show, watch)


def drain(
    shell: Shell,
    node: Node,
    reason: Annotated[str, typer.Option("--reason", help="Shown to who wonders.", metavar="TEXT")] = "",
) -> None:
    """Place nothing new on a node; what runs there goes on.

    Example:
      $ nsml node drain n1 --reason "new disks"
    """
    answer = shell.api.command("node.drain", node=node, reason=reason)
    if shell.json:
        shell.document(answer)
    else:
        shell.show(f"{node} takes no new sessions. 'nsml node resume {node}' ends that.")


def resume(shell: Shell, node: Node) -> None:
    """Place sessions on a drained node again.

    Example:
      $ nsml node resume n1
    """
    answer = shell.api.command("node.resume", node=node)
    if shell.json:
        shell.document(answer)
    else:
        shell.show(f"{node} takes sessions again.")


def gpustat(shell: Shell, output: Output = "table", watch: Watch = False) -> None:
    """Show every GPU: load, memory, temperature, power, and the session that has it.

    Example:
      $ nsml gpustat
      $ nsml gpustat -w
    """

    def show() -> None:
        rows = shell.api.get("/v1/gpus")
        if not rows and not shell.json and output in ("table", "wide"):
            shell.say("No node has a GPU. 'nsml node ls' shows the nodes.")
        else:
            shell.listing(rows, GPUS, name="uuid", output=output, wide=GPUS_WIDE)

    shell.watched(show, watch)
