"""What is decided before the first step: the cells, the place of the tokens, the passes that fit into memory, the time.

The plan of a fit knows no machine; a layer's plan is made for one.
"""
