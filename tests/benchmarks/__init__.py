"""Micro-benchmarks of what a request costs, part by part: ``python -m tests.benchmarks``. See docs/benchmarks.md."""
