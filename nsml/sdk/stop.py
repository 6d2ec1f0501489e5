"""Saving before the GPUs are taken back: on SIGTERM, when the node left the word `inbox/save` to do so."""

from __future__ import annotations

import os
from _thread import get_ident

from nsml.sdk import context
from nsml.sdk.say import tell, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

CHECKPOINT = "preempted"


class Watch:
    """The process that watches for SIGTERM (0: none), its handler, the signal masks of forking threads."""

    pid = 0
    handler: Any = None
    masks: Dict[int, Any] = {}


def watch(save: Callable[[str], None]) -> None:
    """From now on SIGTERM calls *save* first, if asked to; unless the script handles the signal itself."""
    import signal  # late: it is slow to import

    if Watch.pid or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def on_terminate(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not end the save
        try:
            if os.getpid() == Watch.pid and _is_asked():
                tell("NSML: the GPUs are needed elsewhere; saving checkpoint '%s' first." % CHECKPOINT)
                save(CHECKPOINT)
        except (
            Exception
        ) as error:  # of the user's function, in the middle of anything; the end comes all the same
            warn("preempted", "checkpoint %s was not saved: %s" % (CHECKPOINT, error))
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        signal.signal(signal.SIGTERM, on_terminate)
    except ValueError:  # not in the main thread: there is nobody to watch
        return
    if Watch.handler is None:  # else a child binds: what was registered is inherited
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_a_child)
    Watch.pid, Watch.handler = os.getpid(), on_terminate


def _is_asked() -> bool:
    word = os.path.join(context.SPOOL, "inbox", "save")
    if not os.path.exists(word):
        return False
    os.unlink(word)
    return True


def _before_fork() -> None:
    """Hold SIGTERM back: one that reached the child before it has its own handler would be lost."""
    import signal

    Watch.masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _after_fork() -> None:
    import signal

    signal.pthread_sigmask(signal.SIG_SETMASK, Watch.masks.pop(get_ident()))


def _in_a_child() -> None:
    """A worker ends at once, as it would without us."""
    import signal

    if Watch.pid and signal.getsignal(signal.SIGTERM) is Watch.handler:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Watch.pid = 0
    _after_fork()
