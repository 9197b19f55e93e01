"""tokenprobe: judge frozen vision backbones by attentive and linear probing of stored tokens."""

__version__ = "0.1.0"
