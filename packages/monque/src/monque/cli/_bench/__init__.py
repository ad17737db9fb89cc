"""The parts of `monque bench`."""
