"""From prompts and pictures to conditionings: CLIP."""
