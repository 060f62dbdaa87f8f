"""Compiles the modules that every command passes to machine code, while a wheel is built: the same code, faster."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILERS = ["mypy>=2.4", "setuptools>=77"]
WANTED = os.environ.get("KVSTORE_COMPILE") == "1"


class CompileHook(BuildHookInterface):
    """Adds extension modules to the wheel, beside the modules that they stand in for; to an editable install none."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """The compilers, and what the modules import, for its types."""
        return [*COMPILERS, *self.metadata.core.dependencies] if WANTED else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not WANTED:
            return
        self._folder = TemporaryDirectory(prefix="kvstore-compile-")  # until the wheel is written and this object gone
        build_data["force_include"].update(self._compile(Path(self._folder.name)))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def _compile(self, folder: Path) -> dict[str, str]:
        """The extension modules built under ``folder``, each with its place in the wheel."""
        from mypyc.build import mypycify
        from setuptools import Distribution
        from setuptools.command.build_ext import build_ext

        os.chdir(self.root)
        extensions = mypycify(
            [f"--cache-dir={folder / 'cache'}", *self.config["modules"]],
            target_dir=str(folder / "c"),
            group_name="kvstore",
            opt_level="1",  # a higher one takes half as long again, and most time is spent in the interpreter's library
            debug_level="0",
        )
        libraries = folder / "lib"
        command = build_ext(Distribution({"ext_modules": extensions}))
        command.build_lib, command.build_temp = str(libraries), str(folder / "objects")
        command.parallel = True
        command.ensure_finalized()
        command.run()
        return {str(path): str(path.relative_to(libraries)) for path in libraries.rglob("*.*") if path.is_file()}
