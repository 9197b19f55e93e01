"""Shared by both stages and owned by neither: device and precision, progress, messages, sizes in words, worker signals.

Only `device` loads torch. This folder imports nothing of the package but `errors`.
"""
