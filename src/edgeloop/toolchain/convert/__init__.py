"""From one format to another, each result proven against its source before it counts."""
