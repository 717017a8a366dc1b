"""Serving over HTTP, ours beside LitServe, BentoML and MLServer: started, asked, measured and ended.

`apart` holds what runs in the peers' own Pythons, `peers` how each is started and asked, `process` keeps a server's
processes, `measure` asks them all in turns.
"""
