"""The tests depend on nothing of whoever starts them: no ignored signal, umask, locale or variable."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from types import FrameType

OWN = ("KVSTORE_SEEDS", "KVSTORE_SIMULATED_SEEDS", "KVSTORE_REWRITE")
"""What people set for the tests themselves; all other variables of the store would change what its processes do."""
_PREFIXES = ("KVSTORE_", "LC_", "XDG_")
_NAMES = ("LANGUAGE", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "PYTHONIOENCODING", "PYTHONUTF8")
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def _go_on(number: int, frame: FrameType | None) -> None:
    pass


def _with_default_signals() -> None:
    """Have children begin with no signal ignored or blocked, as ``nohup`` and ``&`` in a script leave them.

    A handler ends with its process, while an ignored signal is inherited: so what was ignored still ends no test.
    """
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _go_on)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _with_plain_surroundings() -> None:
    for name in list(os.environ):
        if name not in OWN and (name.startswith(_PREFIXES) or name in _NAMES):
            del os.environ[name]
    home = tempfile.mkdtemp(prefix="kvstore-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {"HOME": home, "LANG": "C.UTF-8", "TERM": "dumb"}
    os.umask(0o022)


_with_default_signals()
_with_plain_surroundings()
