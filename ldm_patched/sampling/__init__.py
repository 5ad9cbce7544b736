"""The diffusion models, and the sampling around them."""
