"""Where inputs come from, one after another: cameras, videos, sounds, tables, folders, standard input, iterators."""
