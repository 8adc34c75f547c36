"""Data: rows, tasks, identity terms, and a synthetic world.

``loading`` reads rows, ``tasks`` turns them into tokens, ``identity`` holds the terms and templates of identity, and
``lab`` builds the planted-bias world.
"""
