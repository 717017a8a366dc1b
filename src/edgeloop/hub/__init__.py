"""The server side of the uplink: one set of routes over one port."""
