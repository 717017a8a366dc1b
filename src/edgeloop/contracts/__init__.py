"""The words that tiers exchange: frozen plain data and errors. Imports nothing of ours."""
