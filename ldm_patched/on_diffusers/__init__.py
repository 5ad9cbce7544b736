"""Models of diffusers under the patches of this library: needs the extra `diffusers`."""
