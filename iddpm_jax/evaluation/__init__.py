"""Samples from a trained model, and pictures of them."""
