"""What it costs, measured beside what it is compared with: `make bench` writes `docs/benchmarks.md`."""
