"""The devices that models are made for: what fits them, and how fast they would run it."""
