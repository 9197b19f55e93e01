"""Presets: published evaluation protocols as settings of a fit, one YAML file each, by name.

A file holds a summary, a source, the settings that it gives, and the deviations from the original. A new preset is one
file, and one name in `PRESETS`.
"""

from .preset import PRESETS, Preset, load_preset

__all__ = ["PRESETS", "Preset", "load_preset"]
