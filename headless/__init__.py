"""The host without ComfyUI: it runs the same workflow JSON with the same nodes."""
