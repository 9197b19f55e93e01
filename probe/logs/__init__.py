"""Logs of a fit for TensorBoard and wandb: a bounded number of curves while it trains, and its results as a table.

`log.py` decides what is logged, `contract.py` says what a writer does, and each service has one file.
"""

from .log import LOGS, Log, check_log, open_log

__all__ = ["LOGS", "Log", "check_log", "open_log"]
