"""The program that keeps watch over sessions: `python -I -S supervise.py SOCKET_FD`.

It imports the standard library alone and runs under any Python from 3.8. The package around it is entered
without its `__init__`, which belongs to the code of users.
"""

from __future__ import annotations

import os
import sys
import types


def _enter_package() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    package = types.ModuleType("nsml")
    package.__path__ = [os.path.dirname(here)]
    sys.modules["nsml"] = package


if __name__ == "__main__":
    _enter_package()
    from nsml.executor.supervision import nursery

    nursery.serve(int(sys.argv[1]))
