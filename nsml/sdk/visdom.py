"""Scripts of 2018 drew their curves with Visdom; here `nsml.report` draws, so those calls do nothing."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


class Visdom:
    """Takes every call of `visdom.Visdom` and answers with a window's name, as Visdom does."""

    def __init__(self, visdom: Any = None, **options: Any) -> None:
        self.visdom = visdom

    def __getattr__(self, name: str) -> Callable[..., str]:
        if name.startswith("_"):
            raise AttributeError(name)
        return _draw_nothing


def _draw_nothing(*values: Any, **options: Any) -> str:
    return "window"
