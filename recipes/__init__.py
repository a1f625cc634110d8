"""Recipes: whole training jobs written with elastify's public names only."""
