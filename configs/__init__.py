"""Recipes: configurations that override the defaults, each with its command and what came of it."""
