"""Decisions before the first step: the cells, the place of the tokens, the passes that fit into memory, the time.

A fit's plan depends on no machine. A layer's plan is made for one machine.
"""
