"""Workflows as the page keeps them, and nodes as a server describes them."""
