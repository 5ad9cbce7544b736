"""What a node is written against without ComfyUI: its schema, the folders, the session of a run."""
