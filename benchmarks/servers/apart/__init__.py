"""Scripts for servers that live in a Python of their own; each imports its server and nothing of ours but this model.

They are found by PYTHONPATH, so that the server's own workers, which are new processes, find them too.
"""
