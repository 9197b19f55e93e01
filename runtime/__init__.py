"""Shared by both stages and owned by neither: device, progress, messages, words, worker signals, settings with options.

Only `device` loads torch. This folder imports nothing of the package but `errors`.
"""
