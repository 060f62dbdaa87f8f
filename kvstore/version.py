"""Which version of kvstore this is, and whether its hot path is compiled."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def own_version() -> str:
    """The installed version; "unknown" where the sources are run without being installed."""
    try:
        return version("paxos-kvstore")
    except PackageNotFoundError:
        return "unknown"


def is_compiled() -> bool:
    """Whether the modules that every command passes run as machine code; they are compiled all or none."""
    module = find_spec("consensus.replica")
    origin = module.origin if module else None
    return origin is not None and origin.endswith(tuple(EXTENSION_SUFFIXES))
