"""Tests that break things, with numbers too large for the suite: `make torture`. README.md says what and how."""
