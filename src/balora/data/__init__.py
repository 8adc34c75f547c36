"""Data: reading rows (``loading``), turning them into tokens (``tasks``), identity terms and templates (``identity``),
and the planted-bias world (``lab``).
"""
