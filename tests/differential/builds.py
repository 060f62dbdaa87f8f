"""Which build a process runs: the extension modules that lie beside the sources, or the sources alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Literal

from kvstore.version import is_compiled

Build = Literal["compiled", "sources"]
ROOT = Path(__file__).parents[2]
OURS = ("consensus", "kvstore", "cli")


class _Sources:
    """Finds our modules by their sources, whatever lies beside these."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in OURS:
            return None
        for folder in path or [str(ROOT)]:
            if spec := FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name):
                return spec
        return None


def use(build: Build) -> None:
    """Import our modules as this build from now on; to be called before any of them that is compiled is imported."""
    if build == "sources":
        sys.meta_path.insert(0, _Sources)
    if is_compiled() != (build == "compiled"):
        raise SystemExit(f"{build}: the modules beside these sources are {'' if is_compiled() else 'not '}compiled")
