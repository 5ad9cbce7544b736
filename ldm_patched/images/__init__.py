"""From images to latents and back."""
