"""Code that both stages share: device, progress, messages, number formats, worker signals, settings with options.

Only `device` loads torch. From the rest of the package, this folder imports only `errors`.
"""
