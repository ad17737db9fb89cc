"""Storage: the only place that touches MongoDB collections."""
