"""ComfyUI's core nodes, under its names."""
