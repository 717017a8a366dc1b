"""Decide: registry, fleet, rollouts, inbox, analysis, feedback, jobs."""
