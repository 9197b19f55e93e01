"""Shared by both stages and owned by neither: device and precision, progress, messages, signals of worker processes.

Only `device` loads torch. This folder imports nothing of the package but `errors`.
"""
