"""Check a workflow in API format and run it."""
