"""Make a network smaller by taking out what matters least: whole channels, or single weights."""
