"""A background-job queue and scheduler on MongoDB."""
