"""The `nsml` program: which commands there are, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from nsml.core.errors import NsmlError, Unavailable
from nsml_cli import errors, loader
from nsml_cli.loader import Entry, LazyGroup

OF_SESSIONS, OF_RESULTS, OF_DATA, OF_CLUSTER = "Sessions", "Results", "Datasets", "Platform"


class ModelGroup(LazyGroup):
    example = "nsml model ls 12"
    table = {
        "ls": Entry("models", "ls", "List a session's checkpoints.", "Commands"),
        "pull": Entry("models", "pull", "Copy a checkpoint's files here.", "Commands"),
        "rm": Entry("models", "rm", "Remove checkpoints.", "Commands"),
    }


class DatasetGroup(LazyGroup):
    example = "nsml dataset push mnist ./mnist"
    table = {
        "ls": Entry("datasets", "ls", "List the datasets.", "Commands"),
        "push": Entry("datasets", "push", "Upload a folder or file as a dataset.", "Commands"),
        "fs": Entry("datasets", "fs", "List a dataset's files.", "Commands"),
        "pull": Entry("datasets", "pull", "Copy a dataset here.", "Commands"),
        "rm": Entry("datasets", "rm", "Remove datasets.", "Commands"),
    }


class NodeGroup(LazyGroup):
    example = "nsml node ls"
    table = {
        "ls": Entry("nodes", "ls", "List the nodes.", "Commands"),
        "drain": Entry("nodes", "drain", "Place nothing new on a node.", "Commands"),
        "resume": Entry("nodes", "resume", "Place sessions on a node again.", "Commands"),
    }


class Root(LazyGroup):
    table = {
        "run": Entry("run", "run", "Run the code of this folder as a session.", OF_SESSIONS),
        "ps": Entry("sessions", "ps", "List sessions; the active ones unless -a.", OF_SESSIONS),
        "ls": Entry("sessions", "ps", "The same as ps."),
        "logs": Entry("logs", "logs", "Show a session's log.", OF_SESSIONS),
        "stop": Entry("sessions", "stop", "Stop sessions.", OF_SESSIONS),
        "cancel": Entry("sessions", "stop", "The same as stop."),
        "resume": Entry("run", "resume", "Go on with an ended session.", OF_SESSIONS),
        "rm": Entry("sessions", "rm", "Remove sessions and what they saved.", OF_SESSIONS),
        "memo": Entry("sessions", "memo", "Change a session's description.", OF_SESSIONS),
        "command": Entry("sessions", "command", "Show the command that ran a session.", OF_SESSIONS),
        "why": Entry("sessions", "why", "Say why a session waits.", OF_SESSIONS),
        "plot": Entry("results", "plot", "Draw the curves a session reported.", OF_RESULTS),
        "model": Entry("", "", "A session's checkpoints: ls, pull, rm.", OF_RESULTS, ModelGroup),
        "download": Entry("results", "download", "Copy files that a session produced.", OF_RESULTS),
        "pull": Entry("results", "pull", "Copy the code that a session ran.", OF_RESULTS),
        "dataset": Entry("", "", "Datasets: ls, push, fs, pull, rm.", OF_DATA, DatasetGroup),
        "up": Entry("server", "up", "Run a platform on this machine.", OF_CLUSTER),
        "down": Entry("server", "down", "End this machine's platform; sessions go on.", OF_CLUSTER),
        "status": Entry("server", "status", "Show the platform and what it has.", OF_CLUSTER),
        "node": Entry("", "", "The nodes: ls, drain, resume.", OF_CLUSTER, NodeGroup),
        "gpustat": Entry("nodes", "gpustat", "Show every GPU and who uses it.", OF_CLUSTER),
        "gpumonitor": Entry("nodes", "gpustat", "The same as gpustat."),
        "gpumornitor": Entry("nodes", "gpustat", "The same as gpustat."),
    }


ABOUT = """Run machine-learning sessions: code, data, environment and GPUs taken care of.

Example:
  $ nsml run -d mnist -e main.py -g 1 -a "--lr 0.1"
  $ nsml logs -f 1

Every command takes --json, -v, --no-color, --debug and --server URL, too, and says more with --help."""


def run(argv: Sequence[str] | None = None) -> int:
    """Do what *argv* (default: what was typed) says; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _finish(_dispatch(words))
    except KeyboardInterrupt:
        errors.tell("interrupted", "Interrupted.", "", as_json=False)
        return errors.INTERRUPTED
    except BrokenPipeError:  # the reader went away, as `| head` does
        _silence()
        return 0
    except Exception as error:  # noqa: BLE001 here everything that went wrong is told to people
        return _tell(error, words)


def _dispatch(words: list[str]) -> Any:
    if _version_asked(words):
        return _version()
    command = loader.group(Root, "nsml", loader.example(ABOUT))
    return command.main(args=words, prog_name="nsml", standalone_mode=False)


def _finish(result: Any) -> int:
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _tell(error: Exception, words: Sequence[str]) -> int:
    as_json = _asks_json(words)
    if "--debug" in words or os.environ.get("NSML_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, NsmlError):
        return errors.tell_error(error, as_json)
    if hasattr(error, "format_message"):  # a ClickException, whose module is typer's own affair
        context = getattr(error, "ctx", None)
        hint = f"'{context.command_path} --help' shows how it is used." if context else ""
        errors.tell("usage", error.format_message(), hint, as_json)
        return errors.USAGE
    if _is_lost(error):
        return errors.tell_error(
            Unavailable("The connection to the platform broke.", hint="Type it again."), as_json
        )
    if isinstance(error, OSError):
        errors.tell("error", _words(error), "", as_json)
        return 1
    errors.tell(
        "error", f"{type(error).__name__}: {error}", "Type it again with --debug to see where.", as_json
    )
    return 1


def _is_lost(error: Exception) -> bool:
    from http.client import HTTPException

    return isinstance(error, ConnectionError | TimeoutError | HTTPException)


def _words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}." if error.filename and error.strerror else f"{error}."


def _asks_json(words: Sequence[str]) -> bool:
    own = words[: words.index("--")] if "--" in words else words
    return bool({"--json", "-j", "--json-return"} & set(own)) or "json" in {
        after for before, after in pairwise(own) if before in ("-o", "--output")
    }


def _version_asked(words: Sequence[str]) -> bool:
    return any(word == "--version" for word in words[:1])


def _version() -> int:
    import platform
    from importlib.metadata import version

    where = os.environ.get("NSML_SERVER") or "the local platform"
    sys.stdout.write(
        f"nsml {version('nsml')} (Python {platform.python_version()}, {platform.system().lower()}/"
        f"{platform.machine()}), server: {where}\n"
    )
    return 0


def _silence() -> None:
    """Let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(run())
