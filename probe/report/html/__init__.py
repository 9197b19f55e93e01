"""The report as one HTML page that works offline: a table of all cells and figures that answer to the pointer.

`payload.py` turns a report into values for JSON, and `page.py` puts them into the templates beside it.
"""
