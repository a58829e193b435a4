"""Leaf layers that methods put into a model, and how a changed model is written down without code."""
