"""The few things that need both stages."""
