"""The nodes: widgets to patch values to a clone of the model."""
