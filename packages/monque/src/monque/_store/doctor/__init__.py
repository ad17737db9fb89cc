"""What is looked at to tell whether a collection of jobs is in good health; nothing here writes."""
