"""Shared by both stages and owned by neither: device, progress, messages, sizes in words, worker signals, flags.

Only `device` loads torch. This folder imports nothing of the package but `errors`.
"""
