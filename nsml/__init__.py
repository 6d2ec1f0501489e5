"""NSML in user code: what a session knows of itself, and how it reports, saves and loads."""
# ruff: noqa: F401 (every name here is for others to import)

from nsml import constants, decoder, encoder
from nsml.constants import (
    DATASET_NAME,
    DATASET_PATH,
    GPU_NUM,
    HAS_DATASET,
    IS_DATASET,
    IS_ON_NSML,
    MY_RANK,
    NSML_NFS_OUTPUT,
    PARALLEL_PORTS,
    PARALLEL_WORLD,
    SESSION_ID,
    SESSION_NAME,
)
from nsml.sdk.cache import cache
from nsml.sdk.objects import copy
from nsml.sdk.paused import paused
from nsml.sdk.session import bind, infer, load, report, save, save_folder
from nsml.sdk.visdom import Visdom

__all__ = [name for name in dir() if not name.startswith("_") and name != "sdk"]
