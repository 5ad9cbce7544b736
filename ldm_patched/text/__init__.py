"""From prompts and images to conditionings: CLIP."""
