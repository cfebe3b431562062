"""Recipes: one file each, over the defaults in default.py."""
