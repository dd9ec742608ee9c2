"""Recipes: which tensor gets which type. Rules of the user, the classic mixes, and resolving both against a model."""
