"""The tests depend on nothing of whoever starts them: no ignored signal, umask, locale or variable.

They run on the sources, and on the compiled modules where these lie beside them, but for those that are named here.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import WorkStealingScheduling

from kvstore.version import is_compiled
from tests.examples import LONG as WITH_LONG

settings.register_profile("unhurried", deadline=None)  # how long an example takes says more of the machine than of us
settings.load_profile("unhurried")

OWN = (
    "KVSTORE_LONG",
    "KVSTORE_SEEDS",
    "KVSTORE_SIMULATED_SEEDS",
    "KVSTORE_WHOLE_SEEDS",
    "KVSTORE_REWRITE",
    "KVSTORE_INSTALLED",
    "KVSTORE_TESTED_BUILD",
    "KVSTORE_PYTHON_3_",  # and a number
)
"""What people set for the tests themselves; all other variables of the store would change what its processes do."""
PLANTED = "bugs are planted in the text of functions, which compiled code no longer has"
PICKLED = "states are copied by pickling them, which compiled objects do not allow"
REPLACED = "a method of one object is replaced, which compiled classes do not allow"
SOURCES_ONLY = {
    "tests/exploration/test_exploration.py::test_every_rule_holds_in_every_state": PICKLED,
    "tests/exploration/test_exploration.py::test_a_bug_is_found_and_shown_step_by_step": PLANTED,
    "tests/simulation/test_mutants.py::test_a_bug_is_found": PLANTED,
    "tests/simulation/test_mutants.py::test_a_bug_is_shown_by_its_test": PLANTED,
    "tests/simulation/test_mutants.py::test_a_patch_fits": PLANTED,
    "tests/simulation/test_mutants.py::test_a_patch_is_undone": PLANTED,
    "tests/simulation/test_mutants.py::test_a_patch_that_no_longer_fits_is_an_error": PLANTED,
    "tests/simulation/test_whole_mutants.py::test_a_bug_is_shown_by_its_seed": PLANTED,
    "tests/unit/test_reads_of_due_keys.py::test_a_read_does_not_wait_for_a_clock_that_was_set_back": REPLACED,
    "tests/unit/test_totality.py::test_a_command_that_fails_for_no_foreseen_reason_is_a_recorded_failure": PLANTED,
    "tests/simulation/test_runs.py::test_a_failure_is_made_smaller_and_still_is_the_same": PLANTED,
}
"""The tests that cannot run on compiled modules, each with the reason that ``pytest -rs`` shows."""
LONG = re.compile(
    r"""
      tests/exploration/
    | tests/simulation/test_mutants\.py::test_a_bug_is_found
    | tests/simulation/test_whole_mutants\.py::test_a_bug_is_shown_by_its_seed
    | tests/system/hostile/ .* \[three\ nodes
    | tests/system/hostile/test_memory\.py::test_the_figure_is_not_exceeded\[ (?!unfinished\+)
    | tests/system/test_server_faults\.py::test_256_writers
    | tests/differential/ .* -1\]
    """,
    re.VERBOSE,
)
"""Tests that are worth more minutes than a look at a change has; CI runs them with KVSTORE_LONG=1."""
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
        if not name.startswith(OWN) and (name.startswith(_PREFIXES) or name in _NAMES):
            del os.environ[name]
    home = tempfile.mkdtemp(prefix="kvstore-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {"HOME": home, "LANG": "C.UTF-8", "TERM": "dumb"}
    os.umask(0o022)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that is called within a test's process says where the log goes, for all tests after it."""
    root, raises = logging.getLogger("kvstore"), logging.raiseExceptions
    before = root.handlers, root.level, root.propagate
    yield
    root.handlers, level, root.propagate = before
    root.setLevel(level)  # which forgets what is remembered of levels
    logging.raiseExceptions = raises


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> WorkStealingScheduling:
    """Of some hundreds of slow tests in a row one process would otherwise get all, and run them alone at the end."""
    return WorkStealingScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if is_compiled() else ():
        if reason := SOURCES_ONLY.get(item.nodeid.partition("[")[0]):
            item.add_marker(pytest.mark.skip(reason=f"not on compiled modules: {reason}"))
    for item in () if WITH_LONG else items:
        if LONG.match(item.nodeid):
            item.add_marker(pytest.mark.skip(reason="takes long: set KVSTORE_LONG=1"))


_with_default_signals()
_with_plain_surroundings()
