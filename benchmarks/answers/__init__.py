"""The works of `benchmarks.runtime`: what a device answers, how soon, and how many."""
