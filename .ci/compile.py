"""Compiles the modules that every command passes to machine code, while a wheel is built: the same code, faster.

``KVSTORE_COMPILE=0`` leaves it out. ``KVSTORE_COMPILE=1`` fails where it cannot be done; unset, the sources alone are
installed there. Where there is a C compiler, mypy has to be found too, as any other package that a build needs.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILERS = ["mypy>=2.4", "setuptools>=77"]


def obstacle() -> str | None:
    """Why this machine cannot compile, as far as can be told without trying."""
    if platform.python_implementation() != "CPython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "only CPython with its global lock is compiled for"
    compiler = (shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "") or ["cc"])[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler}: install one, or name it in CC"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python.h is missing: install the headers of this Python (Debian: python3-dev)"
    return None


class CompileHook(BuildHookInterface):
    """Adds extension modules to the wheel, beside the modules that they stand in for; to an editable install none."""

    PLUGIN_NAME = "custom"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        choice = os.environ.get("KVSTORE_COMPILE", "")
        if choice not in ("", "0", "1"):
            raise ValueError(f"KVSTORE_COMPILE is {choice!r}: 1 is to compile, 0 is not to, unset is to where possible")
        self._must = choice == "1"
        self._obstacle = "KVSTORE_COMPILE is 0" if choice == "0" else obstacle()

    def dependencies(self) -> list[str]:
        """The compilers, and what the modules import, for its types."""
        return [] if self._obstacle else [*COMPILERS, *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        if self._must and self._obstacle:
            raise RuntimeError(f"KVSTORE_COMPILE is 1, but {self._obstacle}")
        if self._obstacle:
            self.app.display_warning(f"kvstore is not compiled: {self._obstacle}")
            return
        self._folder = TemporaryDirectory(prefix="kvstore-compile-")  # until the wheel is written and this object gone
        try:
            compiled = self._compile(Path(self._folder.name))
        except (Exception, SystemExit) as error:  # mypyc leaves by the latter
            if self._must:
                raise
            self.app.display_warning(f"kvstore is not compiled, the attempt failed: {error!r}")
            return
        build_data["force_include"].update(compiled)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def _compile(self, folder: Path) -> dict[str, str]:
        """The extension modules built under ``folder``, each with its place in the wheel."""
        from mypyc.build import mypycify
        from setuptools import Distribution
        from setuptools.command.build_ext import build_ext

        class BuildInParallel(build_ext):
            """Compiles the sources of one extension side by side: nearly all of the code is in one."""

            def build_extensions(self) -> None:
                compile_in_turn = self.compiler.compile

                def compile_in_parallel(sources: list[str], **options: Any) -> list[str]:
                    with ThreadPoolExecutor(os.cpu_count()) as pool:
                        objects = pool.map(lambda source: compile_in_turn([source], **options), sources)
                        return [path for paths in objects for path in paths]

                self.compiler.compile = compile_in_parallel
                super().build_extensions()

        os.chdir(self.root)
        extensions = mypycify(
            [f"--cache-dir={folder / 'cache'}", *self.config["modules"]],
            target_dir=str(folder / "c"),
            group_name="kvstore",
            multi_file=True,
            opt_level="1",  # a higher one takes half as long again, and most time is spent in the interpreter's library
            debug_level="0",
        )
        libraries = folder / "lib"
        command = BuildInParallel(Distribution({"ext_modules": extensions}))
        command.build_lib, command.build_temp = str(libraries), str(folder / "objects")
        command.ensure_finalized()
        command.run()
        return {str(path): str(path.relative_to(libraries)) for path in libraries.rglob("*.*") if path.is_file()}
