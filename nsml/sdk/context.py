"""Where this code runs: the constants that user code imports, read once from the environment."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Union


def _one_or_several(text: str) -> Union[str, List[str]]:
    """The string *text*, or the list of strings that it is in JSON."""
    if not text.startswith("["):
        return text
    import json  # only here: it would cost more than all of the SDK's import

    try:
        return [str(item) for item in json.loads(text)]
    except ValueError:
        return text


def _list(text: str) -> List[str]:
    """The items of *text*: a JSON list, or words between commas."""
    found = _one_or_several(text)
    return found if isinstance(found, list) else [word.strip() for word in found.split(",") if word.strip()]


def _int(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0


_env = os.environ

SESSION_NAME = _env.get("NSML_SESSION", "")
SESSION_ID = SESSION_NAME
SPOOL = os.path.abspath(_env["NSML_SPOOL"]) if _env.get("NSML_SPOOL") else ""
IS_ON_NSML = bool(SESSION_NAME and SPOOL)

DATASET_PATH = _one_or_several(_env.get("NSML_DATASET_PATH", ""))
DATASET_NAME = _one_or_several(_env.get("NSML_DATASET_NAME", ""))
HAS_DATASET = bool(DATASET_PATH)
IS_DATASET = HAS_DATASET

GPU_NUM = _int(_env.get("NSML_GPU_NUM", ""))
NSML_NFS_OUTPUT = _env.get("NSML_NFS_OUTPUT", "")

PARALLEL_WORLD = _list(_env.get("NSML_PARALLEL_WORLD", ""))
PARALLEL_PORTS = [_int(port) for port in _list(_env.get("NSML_PARALLEL_PORTS", ""))]
MY_RANK = _int(_env.get("NSML_RANK", ""))

PARENT = _env.get("NSML_PARENT", "")  # the session whose checkpoint `paused` loads; none: this one
ITERATION = _env.get("NSML_ITERATION", "")
