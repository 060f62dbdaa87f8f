"""``python -m kvstore`` is the ``kvstore`` command."""

import runpy

# By name: kvstore/ must not import cli/ (imports run cli -> kvstore -> consensus).
runpy.run_module("cli", run_name="__main__")
