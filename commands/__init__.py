"""The commands of `probe`, one file per kind. A command imports its stage or workflow only when it runs.

Importing this package adds every command to `program`.
"""
# ruff: noqa: I001  (the help shows the commands in this order)

from . import stages, stores, results, lists, heads
from .program import app, program

__all__ = ["app", "heads", "lists", "program", "results", "stages", "stores"]
