"""Stands in for vLLM where only its process matters: the same command, flags, signals and second process, but no model.

A test puts the folder above on PYTHONPATH of the servers that it launches. What answers is the simulated endpoint.
"""
