"""A package, because benchmarks train nothing with `tests.scripted` either."""
