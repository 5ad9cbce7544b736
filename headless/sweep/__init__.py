"""`patchbay sweep`: one workflow with many settings, measured and compared."""
