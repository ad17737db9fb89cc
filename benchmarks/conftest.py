"""The benchmarks are programs, not modules to look for examples in."""

collect_ignore = ["_common.py", "drain.py", "idle.py", "latency.py"]
