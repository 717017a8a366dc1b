"""Tools that do part of the same work, each used the way its own documentation says, one module a tool."""
