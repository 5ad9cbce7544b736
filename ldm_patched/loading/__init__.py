"""From a file to models that run."""
