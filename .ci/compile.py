"""Compiles the modules that every command passes to machine code, while a wheel is built: the same code, faster."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WANTED = "KVSTORE_COMPILE"
"""In the environment: 1 = compile; otherwise the modules run as they are."""


class CompileHook(BuildHookInterface):
    """Adds extension modules to the wheel, beside the modules that they stand in for; to an editable install none."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or os.environ.get(WANTED) != "1":
            return
        self._folder = tempfile.mkdtemp(prefix="kvstore-compile-")
        built = self._compile(Path(self._folder))
        build_data["force_include"].update(built)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)

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
            opt_level="1",  # the compiler takes half the time, and the code is as fast
            debug_level="0",
        )
        command = build_ext(Distribution({"ext_modules": extensions}))
        command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
        command.parallel = True
        command.ensure_finalized()
        command.run()
        libraries = folder / "lib"
        return {str(path): str(path.relative_to(libraries)) for path in libraries.rglob("*.*") if path.is_file()}
